"""``python -m sparsercnn COMMAND ...``: all programs of the package under one name."""

import importlib
import sys

__all__ = ["main"]

# Command -> module in sparsercnn.cli, arguments that it adds, what it does.
COMMANDS = {
    "start": ("start", [], "make a run's config from a folder of annotated images"),
    "train": ("train", [], "train a model"),
    "eval": ("train", ["--eval-only"], "evaluate a model on DATASETS.TEST"),
    "predict": ("predict", [], "draw a model's detections on images or a video, and write json"),
    "report": ("report", [], "show what a model does on a data set, as pages"),
    "inspect": ("inspect_data", [], "show what is in data sets, and what is odd in them"),
    "export": ("export", [], "write a model to a file for another runtime"),
    "serve": ("serve", [], "show models on a web page, and answer REST calls"),
    "sweep": ("sweep", [], "run and compare the trainings that a YAML file describes"),
    "benchmark": ("benchmark", [], "measure speed and memory"),
    "analyze": ("analyze", [], "print parameters, operations and memory of models"),
    "convert": ("convert", [], "convert weights of other code bases"),
    "draw_assignment": ("draw_assignment", [], "draw the assignment of proposals to objects"),
    "draw_batch": ("draw_batch", [], "draw training batches as augmentations make them"),
    "draw_attention": ("draw_attention", [], "draw the attention of a dual-attention model"),
}


def main(argv=None):
    """Run a command.

    Args:
        argv (list[str]): the command and its arguments; None: those of the process.

    Returns:
        int: the command's exit status; 2 if there is no such command.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or [""]
    if name not in COMMANDS:
        asked = name in ("-h", "--help")
        if asked:
            print(_usage())
            return 0
        print(f"{_usage()}\n\nerror: no command '{name}'", file=sys.stderr)
        return 2
    module, added, _ = COMMANDS[name]
    # Programs read their name, for messages, and their arguments from here.
    sys.argv = [f"sparsercnn {name}", *added, *arguments]
    return importlib.import_module(f"sparsercnn.cli.{module}").main()


def _usage():
    lines = [f"  {name:17}{summary}" for name, (_, _, summary) in COMMANDS.items()]
    rest = "Each has --help of its own."
    return "\n".join(["usage: python -m sparsercnn COMMAND ...", "", *lines, "", rest])


if __name__ == "__main__":
    sys.exit(main())

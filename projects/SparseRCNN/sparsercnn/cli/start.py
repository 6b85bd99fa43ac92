"""Make the folder of a run from annotated images: a config with reasons. See docs/own_data.md.

Nothing is written beside the data. Known are COCO json, Pascal VOC, YOLO, LabelMe json and CSV.
"""

import argparse
import dataclasses
import shlex

from ..errors import parse_arguments, run_program

EPILOG = """
examples:
  start.py photos --output myrun
  start.py photos/data.yaml --output myrun --explain
  start.py BCCD --output myrun --train trainval --val test
  start.py photos --output myrun --weights output/quickstart
"""
_FORMATS = ("coco", "voc", "yolo", "labelme", "csv")


def fraction(text):
    """Argument type: a number between 0 and 1, neither included."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def whole_number(text):
    """Argument type: 0, 1, 2, ..."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="folder, or one file of annotations")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--explain", action="store_true", help="show the figures behind each choice"
    )
    data = parser.add_argument_group("data")
    data.add_argument("--format", choices=_FORMATS, help="by default, it is recognised")
    data.add_argument("--images", metavar="DIR", help="folder of the images, for COCO and VOC")
    data.add_argument("--train", metavar="SPLIT", help="name of the split to train on")
    data.add_argument("--val", metavar="SPLIT", help="name of the split to evaluate on")
    data.add_argument(
        "--val-fraction",
        type=fraction,
        default=0.2,
        metavar="F",
        help="share of the images to evaluate on, where there is no such split (%(default)s)",
    )
    data.add_argument(
        "--seed",
        type=whole_number,
        default=0,
        metavar="N",
        help="of that division, and of the training",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--weights", default="", metavar="PATH", help="start from this checkpoint or run"
    )
    model.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="YAML, or the name of one in configs/, in place of recipes/small_data",
    )
    model.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="what to train on; auto: a GPU if there is one (%(default)s)",
    )
    model.add_argument(
        "--allow-unsafe",
        action="store_true",
        help="trust the config's Python tags and any pickled weights; both can run code",
    )
    return parser


def main(argv=None):
    """Run the program with `argv`, None for the arguments of the process; returns the exit
    status."""
    return run_program(run, parse_arguments(get_parser(), argv))


def run(args):
    """Make the run's folder, and print what was found and which command trains."""
    # Not above: they take seconds to import, which --help does not need.
    from detectron2.utils.logger import setup_logger

    from ..start.project import Options, make_project

    setup_logger(name="sparsercnn")
    values = vars(args)
    names = {field.name for field in dataclasses.fields(Options)}
    project = make_project(Options(**{k: v for k, v in values.items() if k in names}))
    print(_report(project, args))


def _report(project, args):
    from ..start.writing import explain

    figures = project.figures
    counts = zip(figures.class_names, figures.class_counts, strict=True)
    lines = [
        f"{args.data}: {project.format}, {figures.num_images} images to train on, "
        f"{figures.num_val_images} to evaluate on",
        f"  {figures.num_objects:,} objects to train on: "
        + ", ".join(f"{name} {number:,}" for name, number in counts),
        *(f"  {note}" for note in project.notes),
    ]
    if args.explain:
        lines += ["", "Why:", explain(project.choices)]
    config = shlex.quote(project.config_file)
    run = shlex.quote(next(x.value for x in project.choices if x.key == "OUTPUT_DIR"))
    program = "python -m sparsercnn"
    lines += ["", f"{project.config_file} is written. To train:", ""]
    lines += [f"  {program} train --config-file {config}", "", "Then, to draw:", ""]
    lines += [f"  {program} predict --input PICTURES --output drawn --opts MODEL.WEIGHTS {run}"]
    if project.test_entry:
        entries = repr((project.test_entry,))
        # Double quotes read better, where they do.
        needs_more = any(x in entries for x in '"$`\\!')
        entries = shlex.quote(entries) if needs_more else f'"{entries}"'
        command = f"{program} eval MODEL.WEIGHTS {run} DATASETS.TEST {entries}"
        lines += ["", "At the very end, to evaluate on the test split:", ""]
        lines += [f"  {command} OUTPUT_DIR {run}/test"]
    return "\n".join(lines)

"""Print the cost of models: parameters, operations by part, activations, training memory."""

import argparse
import sys
import time
from pathlib import Path

from ..config_files import CONFIGS, find_config
from ..engine.arguments import add_opts_argument, add_size_argument, add_unsafe_argument
from ..errors import ConfigError, parse_arguments, run_program

EPILOG = """
examples:
  analyze.py --config-file configs/sparse_rcnn/sparsercnn.res50.100pro.3x.yaml
  analyze.py --all --output docs/model_costs.md
  analyze.py --config-file a.yaml b.yaml --size 640 960 --opts MODEL.SparseRCNN.NUM_HEADS 3
"""


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--config-file", nargs="+", metavar="FILE", help="YAML files, or names of some in configs/"
    )
    source.add_argument("--all", action="store_true", help="all models in configs/")
    add_size_argument(parser)
    parser.add_argument(
        "--device",
        help="device of the training step; on cuda, its peak memory is measured (default: a GPU "
        "if there is one)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also write a page with the table"
    )
    add_unsafe_argument(parser)
    add_opts_argument(parser)
    return parser


def measure_all(paths, args):
    """Measure the model of each file; equal models are measured once.

    Args:
        paths (list[Path]): YAML files.
        args (argparse.Namespace): from :func:`get_parser`.

    Returns:
        dict[str, ModelCost]: by path, relative to configs/ for files in that folder.
    """
    from ..analysis import measure_model
    from ..engine.setup import load_config

    costs, known = {}, {}
    for path in paths:
        begin = time.perf_counter()
        cfg = load_config(str(path), args.opts, allow_unsafe=args.allow_unsafe, register=False)
        # The cost of a model depends only on these keys.
        sizes = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        num_masks = cfg.TEST.DETECTIONS_PER_IMAGE
        what = (cfg.MODEL.dump(), cfg.SOLVER.OPTIMIZER, *sizes, num_masks)
        if what not in known:
            known[what] = measure_model(cfg, args.size and tuple(args.size), args.device)
        inside = path.resolve().is_relative_to(CONFIGS)
        name = str(path.resolve().relative_to(CONFIGS) if inside else path)
        costs[name] = known[what]
        print(f"{name}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    return costs


def main(argv=None):
    """Run the tool with `argv`, None for the arguments of the process; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_arguments(get_parser(), argv)
    args.command = " ".join(["python tools/analyze.py", *argv])
    return run_program(analyze, args)


def analyze(args):
    """Print the table and write the page.

    Args:
        args (argparse.Namespace): from :func:`get_parser`, with `command`, the whole command line.
    """
    import torch

    from ..analysis import find_configs, format_costs
    from ..engine.devices import check_device

    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(args.device, "--device")
    if args.size and min(args.size) < 1:
        raise ConfigError(f"--size must be two positive numbers of pixels, got {args.size}.")
    paths = find_configs(CONFIGS) if args.all else [Path(find_config(x)) for x in args.config_file]
    table = format_costs(measure_all(paths, args))
    print(table, end="")
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        page = f"# What the models cost\n\nMade by `{args.command}`.\n\n{table}"
        args.output.write_text(page, encoding="utf-8")

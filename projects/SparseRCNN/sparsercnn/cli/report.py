"""Show what a model does on a data set: pages that open without a server. See docs/report.md."""

import argparse

from ..engine.arguments import add_model_arguments
from ..errors import parse_arguments, run_program
from .logs import start_logs
from .predict import score

EPILOG = """
examples:
  report.py output/quickstart --output report
  report.py --config-file cfg.yaml --output report --opts MODEL.WEIGHTS model.pth
  report.py --predictions run/inference/coco_instances_results.json \\
      --dataset coco:val.json@images --output report
  report.py first_run --compare second_run --names Hungarian DLA --output comparison
"""
_EXPORTS = ("coco", "yolo", "csv", "label-studio")


def number(text):
    """Argument type: an integer above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="folder of a run, or checkpoint, as MODEL.WEIGHTS"
    )
    add_model_arguments(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    add_page_arguments(parser)
    parser.add_argument(
        "--dataset", default="", metavar="NAME", help="in place of the first of DATASETS.TEST"
    )
    parser.add_argument(
        "--predictions", default="", metavar="FILE", help="COCO results, in place of a model"
    )
    second = parser.add_argument_group("second model")
    second.add_argument(
        "--compare", default="", metavar="PATH", help="a run, a checkpoint, or COCO results (.json)"
    )
    second.add_argument(
        "--compare-config-file", default="", metavar="FILE", help="if the checkpoint has none"
    )
    second.add_argument(
        "--names",
        nargs=2,
        default=("model", "second model"),
        metavar=("A", "B"),
        help="of the models, on the pages",
    )
    parser.add_argument(
        "--resamples",
        type=number,
        default=500,
        metavar="N",
        help="of the bootstrap, for intervals (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap")
    export = parser.add_argument_group("export of the detections")
    export.add_argument(
        "--export", nargs="+", default=(), choices=_EXPORTS, help="formats, into DIR/exports"
    )
    export.add_argument(
        "--export-threshold",
        type=score,
        metavar="T",
        help="lowest score (default: the best of each class, and for coco all)",
    )
    return parser


def add_page_arguments(parser):
    """Add options of the page of images."""
    parser.add_argument(
        "--max-images",
        type=number,
        default=5000,
        metavar="N",
        help="on the page of images, the worst of them (%(default)s)",
    )
    parser.add_argument(
        "--picture-size",
        type=number,
        default=640,
        metavar="PIXELS",
        help="longer side of a picture, at most (%(default)s)",
    )


def main(argv=None):
    """Run the program with `argv`, None for the arguments of the process; returns the exit
    status."""
    parser = get_parser()
    args = parse_arguments(parser, argv)
    if args.run and args.predictions:
        parser.error("give a RUN or --predictions, not both")
    return run_program(run, args)


def run(args):
    """Write the report and say where it is."""
    from ..report.making import Options, make_report  # slow, and needs an extra

    start_logs()
    values = {k: v for k, v in vars(args).items() if k in Options.__dataclass_fields__}
    values["opts"] = [*(["MODEL.WEIGHTS", args.run] if args.run else []), *args.opts]
    print(f"Open {make_report(Options(**values))}")

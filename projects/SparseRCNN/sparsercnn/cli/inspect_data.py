"""Show what is in data sets, and what is odd in them. See docs/report.md."""

import argparse

from ..engine.arguments import add_model_arguments
from ..errors import parse_arguments, run_program
from .logs import start_logs
from .report import add_page_arguments

EPILOG = """
With MODEL.WEIGHTS, a model's own detections are compared with the labels.

examples:
  inspect_data.py voc:BCCD@trainval voc:BCCD@test --output inspected
  inspect_data.py coco:val.json@images --output inspected --opts MODEL.WEIGHTS run
"""


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "datasets", nargs="+", metavar="DATASET", help="as in DATASETS, such as training and test"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    add_page_arguments(parser)
    add_model_arguments(parser)
    return parser


def main(argv=None):
    """Run the program with `argv`, None for the arguments of the process; returns the exit
    status."""
    return run_program(run, parse_arguments(get_parser(), argv))


def run(args):
    """Write the pages and say where they are."""
    from ..report.inspecting import InspectOptions, inspect_data  # slow, and needs an extra

    start_logs()
    known = InspectOptions.__dataclass_fields__
    options = InspectOptions(**{k: v for k, v in vars(args).items() if k in known})
    print(f"Open {inspect_data(options)}")

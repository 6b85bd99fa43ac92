"""Measure speed and memory. Without a subcommand, all short benchmarks are run."""

import argparse
import importlib
import sys

from ..errors import parse_arguments, run_program

# Subcommand, a module in sparsercnn.benchmark -> the first line of that module, which is imported
# only where it is used: --help does not wait for PyTorch.
BENCHMARKS = {
    "aggregation": "Each feature aggregation of a pyramid compared with the sum: operations, time "
    "and memory.",
    "detector": "Inference and training step of any config: time by parts, memory, operators; and "
    "of peers.",
    "evaluation": "COCO's metrics of boxes: the fastest implementation that is installed, and "
    "pycocotools.",
    "evaluation_memory": "Memory that COCO's evaluation takes in the main process, and what it "
    "would on a larger set.",
    "interaction": "Training step of one detector with each interaction, at equal RoI size.",
    "matcher": "Label assignment: Hungarian, batched optimal transport, and the same solved one by "
    "one.",
    "position_attention": "Position attention compared with the explicit matrix of all pairs: time "
    "and peak memory.",
    "slices": "Small objects found in a picture of 4,000 x 3,000 pixels, whole and in slices "
    "(TEST.SLICES).",
    "soak": "Slopes of memory and open files over a long training and a long demo.",
    "startup": "Start-up on a data set of COCO's size: processor time and memory, at first and "
    "later.",
}


def load_benchmark(name):
    """The module of a subcommand, see :mod:`sparsercnn.benchmark`."""
    return importlib.import_module(f"sparsercnn.benchmark.{name}")


def get_parser(name=None):
    """Build the parser of the command line.

    Args:
        name (str): the subcommand whose options are wanted; None: none.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    subparsers = parser.add_subparsers(dest="name", metavar="SUBCOMMAND")
    for known, summary in BENCHMARKS.items():
        subparser = subparsers.add_parser(known, help=summary, description=summary)
        if known == name:
            load_benchmark(name).add_arguments(subparser)
    return parser


def main(argv=None):
    """Run the tool with `argv`, None for the arguments of the process; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    name = next((x for x in argv if x in BENCHMARKS), None)
    return run_program(measure, parse_arguments(get_parser(name), argv))


def measure(args):
    """Run the benchmarks that the command line asks for, and print their tables."""
    short = [] if args.name else [name for name in BENCHMARKS if load_benchmark(name).SHORT]
    for job in [args] if args.name else [get_parser(name).parse_args([name]) for name in short]:
        if "device" in job:
            from ..engine.devices import check_device

            check_device(job.device, "--device")
        print(f"## {job.name}\n", flush=True)
        print(load_benchmark(job.name).run(job), end="\n\n", flush=True)

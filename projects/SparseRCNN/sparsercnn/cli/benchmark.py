"""Measure speed and memory. Without a subcommand, all short benchmarks are run."""

import argparse

from ..benchmark import (
    aggregation,
    detector,
    evaluation,
    evaluation_memory,
    interaction,
    matcher,
    position_attention,
    soak,
    startup,
)
from ..engine.setup import check_device
from ..errors import parse_arguments, run_program

# Subcommand -> module, see sparsercnn.benchmark.
BENCHMARKS = {
    "aggregation": aggregation,
    "detector": detector,
    "evaluation": evaluation,
    "evaluation_memory": evaluation_memory,
    "interaction": interaction,
    "matcher": matcher,
    "position_attention": position_attention,
    "soak": soak,
    "startup": startup,
}


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    subparsers = parser.add_subparsers(dest="name", metavar="SUBCOMMAND")
    for name, module in BENCHMARKS.items():
        summary = module.__doc__.splitlines()[0]
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        module.add_arguments(subparser)
    return parser


def main(argv=None):
    """Run the tool with `argv`, None for the arguments of the process; returns the exit status."""
    return run_program(measure, parse_arguments(get_parser(), argv))


def measure(args):
    """Run the benchmarks that the command line asks for, and print their tables."""
    short = [name for name, module in BENCHMARKS.items() if module.SHORT]
    for job in [args] if args.name else [get_parser().parse_args([name]) for name in short]:
        if "device" in job:
            check_device(job.device, "--device")
        print(f"## {job.name}\n", flush=True)
        print(BENCHMARKS[job.name].run(job), end="\n\n", flush=True)

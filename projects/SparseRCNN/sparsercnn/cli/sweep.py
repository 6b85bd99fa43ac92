"""Run the trainings that a YAML file describes, see how far they are, and compare their results."""

import argparse
import logging
import signal

from ..engine.arguments import add_opts_argument
from ..errors import parse_arguments, run_program

EPILOG = """
examples:
  sweep.py run configs/sweeps/dynamic.yaml --parallel 2
  sweep.py run configs/sweeps/dynamic.yaml --dry-run
  sweep.py run configs/sweeps/dynamic.yaml --cluster slurm --partition gpu --gpus 1 --cpus 8 \\
      --parallel 6 --opts MODEL.DEVICE cuda
  sweep.py status configs/sweeps/dynamic.yaml
  sweep.py report configs/sweeps/dynamic.yaml

The same `run` again goes on where the last one was stopped.
"""


def get_parser():
    """The command line.

    Returns:
        argparse.ArgumentParser:
    """
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser("run", help="start, or go on with, all runs that are not finished")
    status = commands.add_parser("status", help="print the state of each run")
    report = commands.add_parser("report", help="write tables, curves and an HTML page")
    for command in (run, status, report):
        command.add_argument("file", help="the sweep's YAML file, or sweeps/NAME")
        command.add_argument("--output", metavar="FOLDER", help="of the runs, not the file's")
        command.add_argument(
            "--variants", nargs="+", default=[], metavar="NAME", help="only these of the file's"
        )
    run.add_argument("--dry-run", action="store_true", help="print what would be run")
    run.add_argument("--no-wait", action="store_true", help="end once all jobs are submitted")
    _add_resources(run)
    report.add_argument(
        "--report-folder", metavar="FOLDER", help="of the report; by default OUTPUT/report"
    )
    report.add_argument(
        "--no-costs", action="store_true", help="do not count parameters and operations"
    )
    for command in (run, status, report):
        add_opts_argument(command, "config overrides for all runs")
    return parser


def _add_resources(parser):
    group = parser.add_argument_group("resources, in place of the file's")
    group.add_argument("--cluster", choices=["local", "slurm"])
    group.add_argument("--parallel", type=int, metavar="N", help="runs at a time")
    group.add_argument("--gpus", type=int, metavar="N", help="of a run, per node")
    group.add_argument("--nodes", type=int, metavar="N", help="of a run")
    group.add_argument("--cpus", type=int, metavar="N", help="of a run, per node")
    group.add_argument("--memory-gb", type=float, metavar="N", help="of a run, per node; for SLURM")
    group.add_argument("--hours", type=float, metavar="N", help="at most, of a run")
    group.add_argument("--partition", metavar="NAME", help="of SLURM")
    group.add_argument("--account", metavar="NAME", help="of SLURM")
    group.add_argument("--constraint", metavar="NAME", help="of SLURM")


_RESOURCES = ("cluster", "parallel", "gpus", "nodes", "cpus", "memory_gb", "hours")
_RESOURCES += ("partition", "account", "constraint")


def main(argv=None):
    """Run the tool.

    Args:
        argv (list[str]): arguments; None: those of the process.

    Returns:
        int: 0; 1: runs failed or are not finished; 2: the file or a key is wrong; 130: Ctrl-C.
    """
    args = parse_arguments(get_parser(), argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # What a script starts in the background, and all its children, would ignore Ctrl-C's signal, by
    # which runs are ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    return run_program(_run, args)


def _run(args):
    from ..sweep import load_sweep  # it needs the extra `sweep`
    from ..sweep.launch import dry_run, launch
    from ..sweep.results import format_status

    resources = {name: getattr(args, name, None) for name in _RESOURCES}
    # The trainings are programs of their own.
    opts = [*args.opts, "IMPORT", repr(args.imports)] if args.imports else args.opts
    sweep = load_sweep(args.file, opts, args.output, args.variants, **resources)
    if args.command == "run":
        if args.dry_run:
            print(dry_run(sweep))
            return 0
        return launch(sweep, wait=not args.no_wait)
    if args.command == "status":
        print(format_status(sweep))
        return 0
    from ..sweep.report import write_report  # it imports matplotlib: slow

    print(write_report(sweep, args.report_folder, measure=not args.no_costs))
    return 0

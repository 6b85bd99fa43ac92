"""Command-line options that programs share. Importing this module takes a moment: ``--help`` does
not wait for PyTorch."""

import argparse

from ..errors import ConfigError
from .imports import import_modules
from .launchers import LAUNCHERS

__all__ = [
    "add_import_argument",
    "add_model_arguments",
    "add_opts_argument",
    "add_size_argument",
    "add_unsafe_argument",
    "argument_parser",
]


def argument_parser(epilog=None):
    """The command line of training and evaluation: detectron2's options for YAML configs, and
    others.

    Args:
        epilog (str): shown after the options.

    Returns:
        argparse.ArgumentParser: its results have the names of detectron2's own parser.
    """
    parser = argparse.ArgumentParser(
        epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="YAML, or the name of one in configs/"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start a new run in an OUTPUT_DIR that holds one, which is moved to a folder in it",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="on this machine; 0: the CPU (%(default)s)",
    )
    machines = parser.add_argument_group("several machines")
    machines.add_argument(
        "--num-machines", type=int, default=1, metavar="N", help="in all (%(default)s)"
    )
    machines.add_argument(
        "--machine-rank", type=int, default=0, metavar="I", help="number of this one, from 0"
    )
    machines.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where processes meet: address of the first machine, which one machine does not need",
    )
    _add_process_arguments(parser)
    add_unsafe_argument(parser)
    add_import_argument(parser)
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides; last on the line",
    )
    return parser


def _add_process_arguments(parser):
    parser.add_argument(
        "--num-processes",
        type=int,
        default=0,
        metavar="N",
        help="run on the CPU, in N processes on each machine that share each batch",
    )
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="auto",
        help="what has started the processes of this run; auto: torchrun or srun if it has, "
        "otherwise this program starts them (%(default)s)",
    )
    parser.add_argument(
        "--join-timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="to wait at the start for the processes of other machines (%(default)g)",
    )


class _Import(argparse.Action):
    """Imports at once: the module may add what later arguments name."""

    def __call__(self, parser, namespace, value, option_string=None):
        try:
            import_modules([value])
        except ConfigError as error:
            parser.error(str(error))
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or ()), value])


def add_import_argument(parser):
    """Add ``--import``, whose modules are imported when it is parsed, to an
    :class:`argparse.ArgumentParser`."""
    parser.add_argument(
        "--import",
        action=_Import,
        dest="imports",
        metavar="MODULE",
        help="import a module of your own, as the config key IMPORT does; may be repeated",
    )


def add_unsafe_argument(parser):
    """Add ``--allow-unsafe`` to an :class:`argparse.ArgumentParser`."""
    parser.add_argument(
        "--allow-unsafe",
        action="store_true",
        help="trust the config's Python tags and any pickled weights; both can run code",
    )


def add_model_arguments(parser):
    """Add ``--config-file``, ``--allow-unsafe`` and ``--opts`` to an
    :class:`argparse.ArgumentParser` of a tool that uses one trained model."""
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="YAML of the model, or the name of one in configs/; without it, the config is that "
        "in MODEL.WEIGHTS",
    )
    add_unsafe_argument(parser)
    add_opts_argument(parser, "config overrides, including MODEL.WEIGHTS, a file or a run's folder")


def add_opts_argument(parser, what="config overrides"):
    """Add ``--import`` and ``--opts``, the rest of the command line, to an
    :class:`argparse.ArgumentParser`."""
    add_import_argument(parser)
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help=f"{what}; last on the line",
    )


def add_size_argument(parser):
    """Add ``--size``, two integers; the default is None, see
    :func:`~sparsercnn.analysis.inputs.input_size`."""
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="in pixels (default: INPUT.MIN_SIZE_TEST and 1.52 times that, 800 x 1216)",
    )

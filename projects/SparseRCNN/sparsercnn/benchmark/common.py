"""What the benchmarks share: options, clocks, ratios, and a description of the machine."""

import time

import torch

from ..analysis import input_size
from ..engine.arguments import add_size_argument
from ..engine.setup import load_config

__all__ = [
    "add_config_arguments",
    "add_device_argument",
    "add_size_argument",
    "describe_place",
    "load_config_and_size",
    "process_peak",
    "processor_seconds",
    "reset_process_peak",
    "time_in_turn",
    "with_ratio",
]


def add_config_arguments(parser, config_file, what):
    """Add ``--config-file``, with the default `config_file` and the help text `what`, ``--size``,
    ``--rounds`` and ``--device``.
    """
    parser.add_argument(
        "--config-file", default=config_file, metavar="FILE", help=f"{what} (%(default)s)"
    )
    add_size_argument(parser)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (%(default)s)")
    add_device_argument(parser, "device to measure on")


def load_config_and_size(args):
    """The config, and height and width, of the options of :func:`add_config_arguments`."""
    cfg = load_config(args.config_file, register=False)
    return cfg, tuple(args.size or input_size(cfg))


def add_device_argument(parser, what):
    """Add ``--device`` with the help text `what`; the default is a GPU if there is one."""
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help=f"{what} (%(default)s)",
    )


def describe_place(device):
    """The name of the GPU, or the number of CPU threads, and the version of PyTorch."""
    if device.startswith("cuda"):
        where = torch.cuda.get_device_name(device)
    else:
        where = f"CPU, {torch.get_num_threads()} threads"
    return f"{where}, torch {torch.__version__}"


def elapsed_seconds(device):
    """The time of a clock, after waiting for `device`."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def processor_seconds(device):
    """:func:`elapsed_seconds` on a GPU; on the CPU, processor time of all threads of this process,
    which other load of the machine does not affect.
    """
    return elapsed_seconds(device) if device.startswith("cuda") else time.process_time()


def time_in_turn(functions, rounds, device, clock=elapsed_seconds, untimed=1):
    """Call functions one after the other in every round, so that other load meets all alike.

    Args:
        functions (dict[Any, callable]): by name; without arguments.
        rounds (int): timed rounds.
        device (str): device that they run on.
        clock (callable): takes the device and gives seconds.
        untimed (int): rounds before, in which libraries are loaded and memory is taken.

    Returns:
        dict[Any, list[float]]: seconds of each round, by name.
    """
    seconds = {name: [] for name in functions}
    for _ in range(untimed + rounds):
        for name, function in functions.items():
            begin = clock(device)
            result = function()
            seconds[name].append(clock(device) - begin)
            del result  # not while the clock runs
    return {name: values[untimed:] for name, values in seconds.items()}


def with_ratio(value, reference, form, unit=1):
    """Two cells: a value in multiples of `unit`, formatted, and its ratio to the reference."""
    return [f"{value / unit:{form}}", f"{value / reference:.2f}"]


def reset_process_peak():
    """Reset the peak of this process's memory; returns what it uses now, in bytes."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _process_memory("VmRSS")


def process_peak():
    """Peak of this process's memory in bytes, since :func:`reset_process_peak`."""
    return _process_memory("VmHWM")


def _process_memory(field):
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return 1024 * int(lines[field].split()[0])

"""Device option, clocks and description of the machine for all benchmarks."""

import time

import torch

__all__ = ["add_device_argument", "describe_place", "elapsed_seconds", "processor_seconds"]


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

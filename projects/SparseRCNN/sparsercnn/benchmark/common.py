"""What the benchmarks share: where they run, the clock, and how they say it."""

import time

import torch

__all__ = ["add_device_argument", "describe_place", "elapsed_seconds", "processor_seconds"]


def add_device_argument(parser, what):
    """Add ``--device``, a GPU where there is one.

    Args:
        parser (argparse.ArgumentParser):
        what (str): its help.
    """
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help=f"{what} (%(default)s)",
    )


def describe_place(device):
    """
    Args:
        device (str):

    Returns:
        str: the GPU, or the CPU's number of threads, and the version of PyTorch.
    """
    if device.startswith("cuda"):
        where = torch.cuda.get_device_name(device)
    else:
        where = f"CPU, {torch.get_num_threads()} threads"
    return f"{where}, torch {torch.__version__}"


def elapsed_seconds(device):
    """
    Args:
        device (str): which must be done with its work first.

    Returns:
        float: of the clock.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def processor_seconds(device):
    """
    Args:
        device (str): which must be done with its work first.

    Returns:
        float: on a GPU of the clock; on the CPU of the processor, all threads together, so that
        what else the machine does is not in it.
    """
    return elapsed_seconds(device) if device.startswith("cuda") else time.process_time()

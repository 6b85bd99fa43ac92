"""Position attention against the explicit matrix of all pairs: time and peak memory."""

import multiprocessing
import os
import tempfile
from dataclasses import dataclass

import torch

from ..analysis import markdown_table
from ..modeling.segmentation.danet_attention import attend_positions
from .common import add_device_argument, describe_place, processor_seconds

__all__ = ["SHORT", "AttentionResult", "add_arguments", "explicit_attention", "measure", "run"]

SHORT = True


def explicit_attention(query, key, value):
    """softmax(Q K^T) V by its definition; see
    :func:`~sparsercnn.modeling.segmentation.danet_attention.attend_positions`."""
    return torch.bmm(torch.bmm(query, key.transpose(1, 2)).softmax(dim=-1), value)


FORMS = {"explicit": explicit_attention, "ours": attend_positions}


@dataclass
class AttentionResult:
    """One form on one map.

    Attributes:
        seconds (tuple[float, float]): of the forward and of the backward pass; on the CPU, of the
            processor, all threads together.
        peaks (tuple[int, int]): bytes above those of the inputs, at most, in the forward pass and
            in both.
        values (list[Tensor]): the output and the gradients of query, key and value, on the CPU.
    """

    seconds: tuple
    peaks: tuple
    values: list


def add_arguments(parser):
    """Add this benchmark's options.

    Args:
        parser (argparse.ArgumentParser):
    """
    parser.add_argument(
        "--sides",
        type=int,
        nargs="+",
        default=[64, 96, 128],
        help="of square maps, in positions (%(default)s)",
    )
    parser.add_argument(
        "--channels",
        type=int,
        default=128,
        help="of the values; queries and keys have an eighth, as in the paper (%(default)s)",
    )
    add_device_argument(parser, "where to measure")


def run(args):
    """Measure and report.

    Args:
        args (argparse.Namespace): with :func:`add_arguments`' options.

    Returns:
        str: Markdown.
    """
    header = ["positions", "form", "forward s", "backward s", "forward MiB", "both MiB"]
    rows = []
    for side in args.sides:
        results = {form: measure(form, side, args.channels, args.device) for form in FORMS}
        for form, result in results.items():
            cells = [f"{side}x{side}", form, *(f"{x:.2f}" for x in result.seconds)]
            cells += [f"{x / 2**20:,.0f}" for x in result.peaks]
            cells.append(f"{_difference(result, results['explicit']):.0e}")
            rows.append(cells)
    return (
        f"{args.channels} channels, queries and keys of {args.channels // 8}, one image, float32, "
        f"{describe_place(args.device)}.\n\n"
        f"{markdown_table([*header, 'difference'], rows, text_columns=2)}\n\n{_LEGEND}"
    )


_LEGEND = """\
Seconds are of the clock on the GPU; on the CPU they are the processor's, all threads together. MiB
are the peak above the inputs, of the whole process on the CPU and as allocated on the GPU.
"difference" is the largest of output and gradients to the explicit form, relative to the largest
value of each."""


def measure(form, side, channels, device):
    """Run one form once, forward and backward; on the CPU in a process of its own.

    Args:
        form (str): in FORMS.
        side (int): of the map, in positions.
        channels (int): of the values, a multiple of 8.
        device (str): where to.

    Returns:
        AttentionResult:

    Raises:
        RuntimeError: the process failed, most likely for want of memory.
    """
    if device != "cpu":
        return AttentionResult(**_measure(form, side, channels, device))
    # A process that has freed memory does not give it all back: each starts afresh.
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "result.pth")
        arguments = (form, side, channels, device, torch.get_num_threads(), path)
        process = multiprocessing.get_context("spawn").Process(target=_save, args=arguments)
        process.start()
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(
                f"The measurement of '{form}' at {side}x{side} positions ended with status "
                f"{process.exitcode}; if memory was short, give smaller --sides."
            )
        return AttentionResult(**torch.load(path, weights_only=True))


def _save(form, side, channels, device, num_threads, path):
    torch.set_num_threads(num_threads)
    _measure(form, 8, channels, device)  # loads what the first call loads
    torch.save(_measure(form, side, channels, device), path)


def _measure(form, side, channels, device):
    generator = torch.Generator().manual_seed(0)
    widths = (channels // 8, channels // 8, channels)
    inputs = [torch.randn(1, side * side, width, generator=generator) for width in widths]
    # Products of variance 1: neither nearly equal weights nor nearly a single one.
    scales = (widths[0] ** -0.25, widths[0] ** -0.25, 1)
    inputs = [
        (x * scale).to(device).requires_grad_() for x, scale in zip(inputs, scales, strict=True)
    ]
    output_gradient = torch.randn(1, side * side, channels, generator=generator).to(device)
    base = _reset_peak(device)
    begin = processor_seconds(device)
    output = FORMS[form](*inputs)
    middle = processor_seconds(device)
    forward_peak = _peak(device)
    output.backward(output_gradient)
    end = processor_seconds(device)
    return {
        "seconds": (middle - begin, end - middle),
        "peaks": (forward_peak - base, _peak(device) - base),
        "values": [x.cpu() for x in (output.detach(), *(x.grad for x in inputs))],
    }


def _difference(result, reference):
    return max(
        ((x - y).abs().max() / y.abs().max()).item()
        for x, y in zip(result.values, reference.values, strict=True)
    )


def _reset_peak(device):
    """Forget the highest use of memory so far; returns what is used now, in bytes."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _process_memory("VmRSS")


def _peak(device):
    return torch.cuda.max_memory_allocated() if device != "cpu" else _process_memory("VmHWM")


def _process_memory(field):
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return 1024 * int(lines[field].split()[0])

"""Position attention compared with the explicit matrix of all pairs: time and peak memory."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from ..analysis import markdown_table
from ..modeling.segmentation.danet_attention import attend_positions
from . import common

__all__ = ["SHORT", "AttentionResult", "add_arguments", "explicit_attention", "measure", "run"]

SHORT = True


def explicit_attention(query, key, value):
    """softmax(Q K^T) V with the explicit matrix; see
    :func:`~sparsercnn.modeling.segmentation.danet_attention.attend_positions`."""
    return torch.bmm(torch.bmm(query, key.transpose(1, 2)).softmax(dim=-1), value)


FORMS = {"explicit": explicit_attention, "ours": attend_positions}


@dataclass
class AttentionResult:
    """Measurements of one form on one map."""

    seconds: tuple  # of forward and backward pass; on the CPU, processor time of all threads
    peaks: tuple  # bytes above those of the inputs, in the forward pass and in both passes
    values: list  # the output and the gradients of query, key and value (ndarray)


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    parser.add_argument(
        "--sides",
        type=int,
        nargs="+",
        default=[64, 96, 128],
        help="sides of square maps, in positions (%(default)s)",
    )
    parser.add_argument(
        "--channels",
        type=int,
        default=128,
        help="channels of values; queries and keys have an eighth of them, as in the paper "
        "(%(default)s)",
    )
    common.add_device_argument(parser, "device to measure on")


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns a Markdown table."""
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
        f"{common.describe_place(args.device)}.\n\n"
        f"{markdown_table([*header, 'difference'], rows, text_columns=2)}\n\n{_LEGEND}"
    )


_LEGEND = """\
Seconds are elapsed time on a GPU, processor time of all threads on the CPU. MiB are the peak above
the inputs: of the whole process on the CPU, of allocated memory on a GPU. "difference" is the
largest difference of output and gradients from the explicit form, relative to the largest value of
each."""


def measure(form, side, channels, device):
    """Run one form once, forward and backward; on the CPU in a separate process.

    Args:
        form (str): a key of FORMS.
        side (int): side of the map, in positions.
        channels (int): channels of the values, a multiple of 8.
        device (str): device to measure on.

    Raises:
        RuntimeError: the process failed, most likely because memory ran out.
    """
    if device != "cpu":
        return _measure(form, side, channels, device)
    # A process does not return all freed memory to the system, so each form gets a new one.
    with ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(torch.get_num_threads(),),
    ) as pool:
        try:
            pool.submit(_measure, form, 8, channels, device)  # the first call loads libraries
            return pool.submit(_measure, form, side, channels, device).result()
        except RuntimeError as error:
            raise RuntimeError(
                f"The measurement of '{form}' at {side}x{side} positions failed: {error}. If "
                "memory ran out, use smaller --sides."
            ) from error


def _measure(form, side, channels, device):
    generator = torch.Generator().manual_seed(0)
    width = channels // 8
    # Products have variance 1: weights are neither nearly equal nor concentrated on one position.
    inputs = [
        (scale * torch.randn(1, side * side, C, generator=generator)).to(device).requires_grad_()
        for C, scale in ((width, width**-0.25), (width, width**-0.25), (channels, 1))
    ]
    output_gradient = torch.randn(1, side * side, channels, generator=generator).to(device)
    base = _reset_peak(device)
    begin = common.processor_seconds(device)
    output = FORMS[form](*inputs)
    middle = common.processor_seconds(device)
    forward_peak = _peak(device)
    output.backward(output_gradient)
    end = common.processor_seconds(device)
    return AttentionResult(
        seconds=(middle - begin, end - middle),
        peaks=(forward_peak - base, _peak(device) - base),
        values=[x.numpy(force=True) for x in (output, *(x.grad for x in inputs))],
    )


def _difference(result, reference):
    pairs = zip(result.values, reference.values, strict=True)
    return max(abs(x - y).max() / abs(y).max() for x, y in pairs)


def _reset_peak(device):
    """Reset the peak of memory use; returns the current use in bytes."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return common.reset_process_peak()


def _peak(device):
    return torch.cuda.max_memory_allocated() if device != "cpu" else common.process_peak()

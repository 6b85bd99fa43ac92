"""What a pass launches, waits for and allocates."""

import json
import os
import tempfile
import warnings

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["allocated_peak", "count_launches", "count_operators", "count_waits"]


def count_operators(function):
    """Operators that a function dispatches on any device, without views, which compute nothing.

    Args:
        function (callable): without arguments; it may run a backward pass.

    Returns:
        int: composite operators count as those that they consist of.
    """
    with _OperatorCounter() as counter:
        function()
    return counter.number


class _OperatorCounter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # In inference mode composite operators come whole, otherwise in pieces.
        with self:
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        self.number += not func.is_view
        return func(*args, **kwargs)


def count_launches(function, device):
    """Kernels and CUDA graphs that a function launches on the GPU; None on the CPU.

    Args:
        function (callable): without arguments.
        device (str): device that it runs on.
    """
    if not device.startswith("cuda"):
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        function()
        torch.cuda.synchronize(device)
    return sum(event.count for event in profiler.key_averages() if _is_launch(event.key))


def _is_launch(name):
    """Whether an event is a launch: cudaLaunchKernel, cuLaunchKernelEx, cudaGraphLaunch, ..."""
    return name.startswith("cu") and "Launch" in name


def count_waits(function, device):
    """How often a function makes the host wait for the GPU; None on the CPU.

    Args:
        function (callable): without arguments.
        device (str): device that it runs on.

    Returns:
        int: what :func:`torch.cuda.set_sync_debug_mode` reports.
    """
    if not device.startswith("cuda"):
        return None
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def allocated_peak(function, device):
    """Peak of the memory that tensors and workspaces have while a function runs.

    Args:
        function (callable): without arguments.
        device (str): device that it runs on.

    Returns:
        int: bytes, above those that were allocated before.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    # Where a build of torch for CUDA finds no driver, the profiler would print an error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        result = function()
        del result
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        profiler.export_chrome_trace(path)
        with open(path, encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
    return _peak_of(x for x in events if x.get("name") == "[memory]")


def _peak_of(events):
    """Largest sum of what is allocated; what was allocated before the events does not count."""
    live, total, peak = {}, 0, 0
    for event in sorted(events, key=lambda x: x["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            live[address] = size
            total += size
            peak = max(peak, total)
        else:
            total -= live.pop(address, 0)
    return peak

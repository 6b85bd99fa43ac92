import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sparsercnn.benchmark import counters
from sparsercnn.benchmark.counters import (
    allocated_peak,
    count_launches,
    count_operators,
    count_waits,
)


def test_operators_are_counted_by_hand():
    layer = nn.Linear(4, 4)
    x = torch.ones(2, 3, 4)

    def forward():
        return layer(x).relu().transpose(1, 2)  # addmm and relu; views before, between and after

    def infer():
        with torch.inference_mode():
            forward()

    def step():
        # addmm, relu, sum; ones_like, threshold_backward, mm for the weight, sum for the bias
        forward().sum().backward()

    assert count_operators(forward) == 2
    assert count_operators(infer) == 2  # where a linear layer comes as one operator
    assert count_operators(step) == 7


def test_memory_is_counted_by_hand():
    x = torch.zeros(256, 1024)  # 1 MiB
    mib = 2**20

    def chain():
        y = x + 1
        z = y * 2  # two of them
        del y
        return z.relu() + 1  # z, relu, sum: three

    assert allocated_peak(chain, "cpu") == pytest.approx(3 * mib, abs=1000)
    kept = [x + 1]
    # What is freed was allocated before and does not count, nor does what an earlier call left.
    assert allocated_peak(kept.clear, "cpu") == 0
    left = []
    allocated_peak(lambda: left.append(x + 1), "cpu")
    assert allocated_peak(lambda: x + 1, "cpu") == pytest.approx(mib, abs=1000)
    assert allocated_peak(lambda: (left.clear(), x + 1), "cpu") == pytest.approx(mib, abs=1000)


def test_the_cpu_has_no_launches_and_no_waits():
    assert count_launches(lambda: None, "cpu") is None
    assert count_waits(lambda: None, "cpu") is None


def test_waits_are_the_warnings_of_the_debug_mode(monkeypatch):
    mode = ["error"]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", mode.append)

    def function():
        assert mode[-1] == "warn"
        for _ in range(3):  # from one line of code
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    assert count_waits(function, "cuda") == 3
    assert mode == ["error", "warn", "error"]
    with pytest.raises(ZeroDivisionError):
        count_waits(lambda: 1 / 0, "cuda")
    assert mode[-1] == "error"


def test_launches_are_those_of_kernels_and_graphs(monkeypatch):
    events = {"cudaLaunchKernel": 5, "cuLaunchKernelEx": 3, "cudaGraphLaunch": 1}
    events |= {"cudaMemcpyAsync": 7, "aten::add": 9, "cudaStreamSynchronize": 2}

    class Profile:
        def __init__(self, activities):
            assert torch.profiler.ProfilerActivity.CUDA in activities

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def key_averages(self):
            return [SimpleNamespace(key=key, count=count) for key, count in events.items()]

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert count_launches(lambda: None, "cuda") == 9


def test_memory_of_a_gpu_is_the_peak_above_what_was_there(monkeypatch):
    state = {"peak": 900, "now": 100}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: state["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: state["peak"])
    reset = lambda device: state.update(peak=state["now"])  # noqa: E731
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    assert counters.allocated_peak(lambda: state.update(peak=350), "cuda:0") == 250

import argparse
import re

import torch

from sparsercnn.analysis import StepMemory, make_batch
from sparsercnn.benchmark import interaction
from sparsercnn.benchmark.interaction import StepResult, measure_steps


def test_all_variants_are_measured(tiny_cfg):
    tiny_cfg.freeze()  # as a loaded config is
    results = measure_steps(tiny_cfg, make_batch((64, 64), 2), "cpu", steps=2, rounds=1)
    assert list(results) == list(interaction.VARIANTS)
    assert all(len(result.seconds) == 2 for result in results.values())
    # One stage of the tiny detector has 32 channels: dynamic convolution's Linear r^2 C -> C.
    by_size = {size: results["dynamic_conv", size].parameters for size in (7, 5)}
    assert by_size[7] - by_size[5] == 2 * (49 - 25) * 32 * 32
    kept = {key: result.memory.kept for key, result in results.items()}
    assert kept["dual_attention", 7] > kept["dynamic_conv", 7] > kept["dynamic_conv", 5]


def test_ratios_are_to_the_same_roi_size(monkeypatch, repository):
    mib = 2**20

    def result(seconds, kept):
        return StepResult(2_000_000, seconds, StepMemory(mib, 2 * mib, mib, kept * mib))

    results = {
        ("dynamic_conv", 7): result([1.0, 3.0, 2.0], 10),
        ("dual_attention", 7): result([9.0, 3.0, 3.0], 30),
        ("dynamic_conv", 5): result([1.0], 5),
        ("dual_attention", 5): result([4.0], 20),
    }
    monkeypatch.setattr(interaction, "measure_steps", lambda *args, **kwargs: results)
    parser = argparse.ArgumentParser()
    interaction.add_arguments(parser)
    config = str(repository / "configs/quickstart/sparsercnn.yaml")
    args = parser.parse_args(["--config-file", config, "--device", "cpu"])
    text = interaction.run(args)
    assert f"batch of 2 at 128x192, float32, CPU, {torch.get_num_threads()} threads" in text
    lines = re.sub(" +", " ", text).splitlines()
    rows = [line for line in lines if line.startswith("| d")]
    assert rows[0] == "| dynamic_conv | 7x7 | 2.0 | 2.000 | 1.00 | 10 | 1.00 | 13 | 1.00 |"
    assert rows[1] == "| dual_attention | 7x7 | 2.0 | 3.000 | 1.50 | 30 | 3.00 | 33 | 2.54 |"
    assert rows[3] == "| dual_attention | 5x5 | 2.0 | 4.000 | 4.00 | 20 | 4.00 | 23 | 2.88 |"

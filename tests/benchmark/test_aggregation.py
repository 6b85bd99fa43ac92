import argparse
import re

import pytest

from sparsercnn.benchmark import aggregation
from sparsercnn.benchmark.aggregation import NeckResult, measure_necks
from sparsercnn.engine.setup import load_config
from sparsercnn.modeling.necks.attention_fpn import AGGREGATIONS


@pytest.fixture
def config(repository):
    return str(repository / "configs/quickstart/sparsercnn.msca_adp.yaml")


def test_all_aggregations_are_measured(config):
    cfg = load_config(config, register=False)
    results = measure_necks(cfg, (64, 64), "cpu", rounds=2)
    assert list(results) == list(AGGREGATIONS)
    for result in results.values():
        assert result.peak is None
        for values in result.seconds.values():
            assert len(values) == 2 and min(values) > 0
    C, maps = 64, (64, 128, 256, 512)
    # 1x1 and 3x3 convolutions and their batch norms, over 16 x 16 positions and fewer.
    assert results["sum"].parameters == C * sum(maps) + 4 * (9 * C * C + 4 * C)
    positions = [256, 64, 16, 4]
    flops = sum(n * C * (channels + 9 * C) for n, channels in zip(positions, maps, strict=True))
    assert results["sum"].flops == pytest.approx(flops, rel=0.02)  # norms and resizing
    # The same layers; a norm more in each block.
    assert results["msca"].parameters - results["mssa"].parameters == 4 * 2 * C
    # Queries of the coarser map, a quarter of them.
    assert results["msca"].flops < results["mssa"].flops


def test_ratios_are_to_the_sum(monkeypatch, config):
    mib = 2**20

    def result(scale):
        times = {"forward": [0.2 * scale, 0.1 * scale], "both": [scale], "backbone": [2.0, 3.0]}
        return NeckResult(1_000_000, 10**9, int(scale * 8) * mib, None, times)

    measured = {"sum": result(1.0), "mssa": result(2.5)}
    monkeypatch.setattr(aggregation, "measure_necks", lambda *args, **kwargs: measured)
    parser = argparse.ArgumentParser()
    aggregation.add_arguments(parser)
    args = parser.parse_args(["--config-file", config, "--size", "64", "96", "--device", "cpu"])
    text = aggregation.run(args)
    assert "one image of 64x96, float32, CPU" in text
    expected = "| mssa | 1.00 | 1.0 | 0.250 | 2.50 | 2.500 | 2.50 | 2.000 | 1.00 | 20 | 2.50 |"
    assert expected in re.sub(" +", " ", text)

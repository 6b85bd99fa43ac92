"""A model is measured once, and what cannot be measured stops nothing."""

import pytest

from sparsercnn.analysis import kept_costs, measure_model
from sparsercnn.analysis.kept_costs import measure_once


@pytest.fixture
def configs(tiny_cfg):
    more, elsewhere = tiny_cfg.clone(), tiny_cfg.clone()
    more.MODEL.SparseRCNN.NUM_HEADS = 6
    elsewhere.MODEL.DEVICE = "cuda"
    elsewhere.SOLVER.BASE_LR = 0.1
    return {"plain": tiny_cfg, "more": more, "same": elsewhere}


def test_a_model_is_measured_once(configs, monkeypatch, tmp_path):
    calls = []

    def measure(cfg):
        calls.append(cfg)
        return measure_model(cfg, (64, 64))

    monkeypatch.setattr(kept_costs, "measure_model", measure)
    file = tmp_path / "costs.json"
    assert measure_once(configs, file, measure=False) == {}
    found = measure_once(configs, file)
    assert len(calls) == 2  # "same" is the same model as "plain"
    assert found["same"] == found["plain"]
    assert found["more"]["trainable"] > found["plain"]["trainable"]
    assert found["more"]["flops"] > found["plain"]["flops"] > 0
    assert (found["plain"]["height"], found["plain"]["width"]) == (64, 64)
    assert measure_once(configs, file, measure=False) == found
    assert measure_once(configs, file) == found and len(calls) == 2


def test_a_model_that_cannot_be_measured_is_left_out(configs, monkeypatch, caplog, tmp_path):
    def refuse(cfg):
        raise RuntimeError("no trace")

    monkeypatch.setattr(kept_costs, "measure_model", refuse)
    assert measure_once(configs, tmp_path / "costs.json") == {}
    assert "plain cannot be measured: no trace" in caplog.text

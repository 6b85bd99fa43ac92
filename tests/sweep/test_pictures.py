"""Curves over seeds, and which losses they show."""

import numpy as np
import pandas as pd
import pytest

from sparsercnn.sweep import pictures
from sparsercnn.sweep.pictures import curve_sections, loss_names, mean_curve
from sparsercnn.sweep.results import gather_results

NAN = float("nan")


def history(*runs):
    rows = [
        {"variant": "a", "seed": seed, "iteration": i, "x": x}
        for seed, run in enumerate(runs)
        for i, x in run.items()
    ]
    return pd.DataFrame(rows)


def test_a_curve_is_of_the_iterations_that_all_runs_have():
    curve = mean_curve(history({1: 1.0, 2: 2.0, 3: 3.0}, {2: 4.0, 3: 9.0, 4: NAN, 5: 1.0}), "x")
    assert curve.index.tolist() == [2, 3]
    assert curve["mean"].tolist() == [3.0, 6.0]
    assert curve["min"].tolist() == [2.0, 3.0] and curve["max"].tolist() == [4.0, 9.0]
    assert mean_curve(history({1: 1.0}, {2: 1.0}), "x").empty
    assert mean_curve(history({1: 1.0, 2: 1.0}, {1: float("inf"), 2: NAN}), "x").empty


@pytest.mark.parametrize("width", [1, 3, 5, 9])
def test_smoothing_takes_the_neighbours_that_there_are(width):
    values = np.random.default_rng(0).normal(size=6)
    curve = mean_curve(history(dict(enumerate(values))), "x", width)
    half = width // 2
    expected = [values[max(i - half, 0) : i + half + 1].mean() for i in range(6)]
    np.testing.assert_allclose(curve["mean"], expected)


def test_losses_of_the_last_stage_and_the_sum():
    row = dict.fromkeys(("total_loss", "loss_ce", "loss_ce_0", "loss_ce_1", "lr", "time"), 1.0)
    row |= {"loss_box_reg_stage0": 1.0, "loss_aux_2": 1.0, "bbox/AP": 1.0}
    names = ["total_loss", "loss_aux_2", "loss_box_reg_stage0", "loss_ce"]
    assert loss_names(pd.DataFrame([row])) == names


def test_the_metric_is_drawn_if_it_was_evaluated_during_training(make_sweep, finish):
    sweep = make_sweep(variants={"a": {}})
    finish(sweep, "a", [40.0])
    metric, losses = curve_sections(gather_results(sweep))
    assert not metric.pictures and "evaluated at the end only" in metric.text
    assert losses.pictures[0].name == "losses.png" and "over 3 logged points" in losses.notes[1]
    with open(sweep.runs[0].folder / "metrics.json", "a") as file:
        file.write('\n{"iteration": 30, "bbox/AP": 20.0}')
    metric, _ = curve_sections(gather_results(sweep))
    assert metric.pictures[0].name == "metric.png"
    assert metric.pictures[0].png.startswith(b"\x89PNG")


@pytest.mark.parametrize("grid", [False, True])
def test_more_variants_than_colours(make_sweep, finish, grid):
    if grid:
        axes = {"MODEL.SparseRCNN.NUM_HEADS": list(range(1, 6)), "SOLVER.BASE_LR": [0.1, 0.2]}
        sweep = make_sweep(axes=axes)
    else:
        sweep = make_sweep(variants={f"v{i}": {} for i in range(10)})
    for variant in sweep.variants:
        finish(sweep, variant.name, [40.0])
    _, losses = curve_sections(gather_results(sweep))
    assert losses.pictures[0].png.startswith(b"\x89PNG")
    assert f"the mean over {'all runs of a level' if grid else 'seeds'}" in losses.notes[0]


def test_a_curve_of_one_point_is_seen():
    both = pd.concat([history({5: 1.0}), history({5: 2.0, 6: 3.0}).assign(variant="b")])
    for panels in ({"": ("a", both["variant"])}, {"": ("b", both["variant"])}):
        (axes,) = pictures._draw(both, panels, ["x"], marker="").axes
        markers = {line.get_label(): line.get_marker() for line in axes.lines}
        assert markers == {"a": "o", "b": ""}

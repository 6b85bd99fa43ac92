"""Curves over seeds, and which losses they show."""

from types import SimpleNamespace

import numpy as np
import pytest

from sparsercnn.sweep.curves import loss_curves, loss_names, mean_curve, metric_curves
from sparsercnn.sweep.results import gather_results


def run(**values):
    return SimpleNamespace(rows=[{"iteration": int(i[1:]), "x": x} for i, x in values.items()])


def test_a_curve_is_of_the_iterations_that_all_runs_have():
    curve = mean_curve([run(i1=1.0, i2=2.0, i3=3.0), run(i2=4.0, i3=9.0, i4=float("nan"))], "x")
    assert curve.iterations.tolist() == [2, 3]
    assert curve.mean.tolist() == [3.0, 6.0]
    assert curve.low.tolist() == [2.0, 3.0] and curve.high.tolist() == [4.0, 9.0]
    assert mean_curve([run(i1=1.0), run(i2=1.0)], "x") is None
    assert mean_curve([], "x") is None


@pytest.mark.parametrize("width", [1, 3, 5, 9])
def test_smoothing_takes_the_neighbours_that_there_are(width):
    values = np.random.default_rng(0).normal(size=6)
    curve = mean_curve([run(**{f"i{i}": x for i, x in enumerate(values)})], "x", width)
    half = width // 2
    expected = [values[max(i - half, 0) : i + half + 1].mean() for i in range(6)]
    np.testing.assert_allclose(curve.mean, expected)


def test_losses_of_the_last_stage_and_the_sum():
    row = dict.fromkeys(("total_loss", "loss_ce", "loss_ce_0", "loss_ce_1", "lr", "time"), 1.0)
    row |= {"loss_box_reg_stage0": 1.0, "loss_aux_2": 1.0, "bbox/AP": 1.0}
    results = SimpleNamespace(finished=[SimpleNamespace(rows=[row])])
    names = ["total_loss", "loss_aux_2", "loss_box_reg_stage0", "loss_ce"]
    assert loss_names(results) == names


def test_the_metric_is_drawn_if_it_was_evaluated_during_training(make_sweep, finish):
    sweep = make_sweep(variants={"a": {}})
    finish(sweep, "a", [40.0])
    assert metric_curves(gather_results(sweep)) is None
    with open(sweep.runs[0].folder / "metrics.json", "a") as file:
        file.write('\n{"iteration": 30, "bbox/AP": 20.0}')
    assert metric_curves(gather_results(sweep)).png.startswith(b"\x89PNG")


@pytest.mark.parametrize("grid", [False, True])
def test_more_variants_than_colours(make_sweep, finish, grid):
    if grid:
        axes = {"MODEL.SparseRCNN.NUM_HEADS": list(range(1, 6)), "SOLVER.BASE_LR": [0.1, 0.2]}
        sweep = make_sweep(axes=axes)
    else:
        sweep = make_sweep(variants={f"v{i}": {} for i in range(10)})
    for variant in sweep.variants:
        finish(sweep, variant.name, [40.0])
    picture, width = loss_curves(gather_results(sweep))
    assert picture.png.startswith(b"\x89PNG") and width == 3

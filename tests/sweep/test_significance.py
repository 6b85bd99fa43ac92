"""Which comparisons a report makes, and what it says about them."""

import random

import pytest

from sparsercnn.sweep.results import compare_variants, gather_results, main_effects

AXES = {
    "MODEL.SparseRCNN.NUM_HEADS": [2, 4, 6],
    "matcher": {"one": {}, "many": {"MODEL.SparseRCNN.MATCHER.NAME": "optimal_transport"}},
}


def test_variants_are_compared_over_common_seeds(make_sweep, finish):
    variants = {name: {} for name in ("plain", "better", "alone", "same", "none")}
    sweep = make_sweep(variants=variants, seeds=[1, 2, 3])
    finish(sweep, "plain", [10.0, 12.0, 11.0])
    finish(sweep, "better", [20.0, 22.1, 20.9])
    finish(sweep, "alone", [50.0])
    finish(sweep, "same", [10.0, 12.0])
    found = compare_variants(gather_results(sweep))
    assert found.index.tolist() == ["better", "alone", "same", "none"]
    better = found.loc["better"]
    assert better["difference"] == pytest.approx(10.0)
    # Only one was tested, so there is nothing to correct.
    assert better["p_holm"] == better["p"] < 0.001
    verdicts = ["yes", "one seed", "same results", "no pair"]
    assert found["exceeds_noise"].tolist() == verdicts


def test_main_effects_are_exact_where_effects_add_up(make_sweep, finish):
    sweep = make_sweep(axes=AXES, seeds=[1, 2])
    heads = {"NUM_HEADS=2": 0.0, "NUM_HEADS=4": 3.0, "NUM_HEADS=6": 5.0}
    generate = random.Random(0)
    for variant in sweep.variants:
        value = 30 + heads[variant.levels["MODEL.SparseRCNN.NUM_HEADS"]]
        value += 2.0 * (variant.levels["matcher"] == "many")
        finish(sweep, variant.name, [value + generate.gauss(0, 1e-3) for _ in sweep.seeds])
    effects = main_effects(gather_results(sweep))
    heads = "MODEL.SparseRCNN.NUM_HEADS"
    assert effects["pairs"].to_dict() == {
        (heads, "NUM_HEADS=4", "NUM_HEADS=2"): 4,
        (heads, "NUM_HEADS=6", "NUM_HEADS=2"): 4,
        ("matcher", "many", "one"): 6,
    }
    assert effects["difference"].tolist() == pytest.approx([3.0, 5.0, 2.0], abs=0.01)
    assert (effects["exceeds_noise"] == "yes").all()


def test_main_effects_take_the_pairs_that_are_there(make_sweep, finish):
    sweep = make_sweep(axes=AXES, seeds=[1, 2])
    finish(sweep, "NUM_HEADS=2+one", [1.0, 2.0])
    finish(sweep, "NUM_HEADS=4+one", [4.0])
    finish(sweep, "NUM_HEADS=2+many", [5.0, 7.0])
    finish(sweep, "NUM_HEADS=6+many", [9.0, 4.0])
    # Every pair is a pair of runs of one seed.
    effects = main_effects(gather_results(sweep))
    assert effects["pairs"].tolist() == [1, 2, 2]
    assert effects["difference"].tolist() == pytest.approx([3.0, 0.5, 4.5])
    assert effects["exceeds_noise"].iloc[0] == "one pair"


def test_an_axis_may_have_the_name_of_a_column(make_sweep, finish):
    sweep = make_sweep(axes={"seed": {"x": {}, "y": {"SOLVER.BASE_LR": 0.1}}}, seeds=[1, 2])
    finish(sweep, "x", [1.0, 2.0])
    finish(sweep, "y", [3.0, 3.5])
    assert main_effects(gather_results(sweep))["difference"].tolist() == [1.75]

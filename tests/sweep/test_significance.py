"""The statistics of a report: worked by hand, and against scipy's own tests."""

import itertools
import math
import random

import pytest
from scipy import stats

from sparsercnn.sweep.results import gather_results
from sparsercnn.sweep.significance import compare_variants, holm, main_effects, paired_test

AXES = {
    "MODEL.SparseRCNN.NUM_HEADS": [2, 4, 6],
    "matcher": {"one": {}, "many": {"MODEL.SparseRCNN.MATCHER.NAME": "optimal_transport"}},
}


def test_paired_test_worked_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1; t is 2 sqrt(3), and the 97.5 % point of t(2) 4.3027.
    test = paired_test([(11, 10), (22, 20), (13, 10)])
    assert (test.pairs, test.difference) == (3, 2)
    assert test.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-4)
    assert test.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-4)
    assert test.p == pytest.approx(0.07418, abs=1e-5)
    # Two pairs: t(1) is Cauchy's distribution.
    test = paired_test([(3, 0), (5, 0)])
    assert test.p == pytest.approx(1 - 2 / math.pi * math.atan(4))


def test_paired_test_is_scipys():
    generate = random.Random(3)
    pairs = [(generate.gauss(40, 2), generate.gauss(39, 2)) for _ in range(7)]
    expected = stats.ttest_rel(*zip(*pairs, strict=True))
    test = paired_test(pairs)
    assert test.p == pytest.approx(expected.pvalue)
    assert (test.low, test.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_without_a_spread_there_is_no_test():
    assert paired_test([]).difference is None
    for pairs in ([(5.0, 3.0)], [(5.0, 3.0), (0.3 + 4, 2.3)], [(1.0, 1.0)] * 3, [(0, 0)] * 3):
        test = paired_test(pairs)
        assert test.difference == pytest.approx(pairs[0][0] - pairs[0][1])
        assert test.p is None and test.low is None


def test_holm_worked_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, 0.06, 0.06]
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([None]) == [None] and holm([]) == []


def test_holm_refuses_what_its_definition_refuses():
    generate = random.Random(1)
    for _ in range(50):
        p_values = [generate.uniform(0, 0.1) for _ in range(5)]
        refused = set()
        for rank, i in enumerate(sorted(range(5), key=p_values.__getitem__)):
            if p_values[i] >= 0.05 / (5 - rank):
                break
            refused.add(i)
        assert {i for i, p in enumerate(holm(p_values)) if p < 0.05} == refused


def test_variants_are_compared_over_common_seeds(make_sweep, finish):
    variants = {name: {} for name in ("plain", "better", "alone", "same", "none")}
    sweep = make_sweep(variants=variants, seeds=[1, 2, 3])
    finish(sweep, "plain", [10.0, 12.0, 11.0])
    finish(sweep, "better", [20.0, 22.1, 20.9])
    finish(sweep, "alone", [50.0])
    finish(sweep, "same", [10.0, 12.0])
    found = compare_variants(gather_results(sweep))
    assert list(found) == ["better", "alone", "same", "none"]
    assert found["better"].test.difference == pytest.approx(10.0)
    # Only one was tested, so there is nothing to correct.
    assert found["better"].p_holm == found["better"].test.p < 0.001
    assert [c.verdict for c in found.values()] == ["yes", "one seed", "same results", "no pair"]


def test_main_effects_are_exact_where_effects_add_up(make_sweep, finish):
    sweep = make_sweep(axes=AXES, seeds=[1, 2])
    heads = {"NUM_HEADS=2": 0.0, "NUM_HEADS=4": 3.0, "NUM_HEADS=6": 5.0}
    generate = random.Random(0)
    for variant in sweep.variants:
        value = 30 + heads[variant.levels["MODEL.SparseRCNN.NUM_HEADS"]]
        value += 2.0 * (variant.levels["matcher"] == "many")
        finish(sweep, variant.name, [value + generate.gauss(0, 1e-3) for _ in sweep.seeds])
    effects = main_effects(gather_results(sweep))
    assert [(e.name, e.reference, e.test.pairs) for e in effects] == [
        ("NUM_HEADS=4", "NUM_HEADS=2", 4),
        ("NUM_HEADS=6", "NUM_HEADS=2", 4),
        ("many", "one", 6),
    ]
    assert [e.test.difference for e in effects] == pytest.approx([3.0, 5.0, 2.0], abs=0.01)
    assert all(e.verdict == "yes" for e in effects)


def test_main_effects_take_the_pairs_that_are_there(make_sweep, finish):
    sweep = make_sweep(axes=AXES, seeds=[1, 2])
    finish(sweep, "NUM_HEADS=2+one", [1.0, 2.0])
    finish(sweep, "NUM_HEADS=4+one", [4.0])
    finish(sweep, "NUM_HEADS=2+many", [5.0, 7.0])
    finish(sweep, "NUM_HEADS=6+many", [9.0, 4.0])
    results = gather_results(sweep)
    heads_4, heads_6, matcher = main_effects(results)
    assert (heads_4.test.pairs, heads_4.test.difference, heads_4.verdict) == (1, 3.0, "one pair")
    assert (heads_6.test.pairs, heads_6.test.difference) == (2, pytest.approx(0.5))
    assert (matcher.test.pairs, matcher.test.difference) == (2, pytest.approx(4.5))
    # Every pair is a pair of runs of one seed.
    assert (
        len(list(itertools.chain(results.pairs("NUM_HEADS=6+many", "NUM_HEADS=4+one", "bbox/AP"))))
        == 1
    )

"""Paired t-tests and Holm's correction: worked by hand, and against scipy's own tests."""

import math
import random

import pytest
from scipy import stats

from sparsercnn.analysis.statistics import holm, paired_test

NAN = float("nan")


def test_paired_test_worked_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1; t is 2 sqrt(3), and the 97.5 % point of t(2) 4.3027.
    test = paired_test([11, 22, 13], [10, 20, 10])
    assert (test.pairs, test.difference) == (3, 2)
    assert test.low_95 == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-4)
    assert test.high_95 == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-4)
    assert test.p == pytest.approx(0.07418, abs=1e-5)
    # Two pairs: t(1) is Cauchy's distribution.
    test = paired_test([3, 5], [0, 0])
    assert test.p == pytest.approx(1 - 2 / math.pi * math.atan(4))


def test_paired_test_is_that_of_the_differences():
    generate = random.Random(3)
    values = [generate.gauss(40, 2) for _ in range(7)]
    references = [generate.gauss(39, 2) for _ in range(7)]
    differences = [a - b for a, b in zip(values, references, strict=True)]
    expected = stats.ttest_1samp(differences, 0)
    test = paired_test(values, references)
    assert test.p == pytest.approx(expected.pvalue)
    assert (test.low_95, test.high_95) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert paired_test([*values, NAN, 1.0], [*references, 1.0, NAN]) == test


def test_without_a_spread_there_is_no_test():
    assert math.isnan(paired_test([], []).difference)
    for values, references in (
        ([5.0], [3.0]),
        ([5.0, 0.3 + 4], [3.0, 2.3]),
        ([1.0] * 3, [1.0] * 3),
        ([0] * 3, [0] * 3),
    ):
        test = paired_test(values, references)
        assert test.difference == pytest.approx(values[0] - references[0])
        assert math.isnan(test.p) and math.isnan(test.low_95)


def test_holm_worked_by_hand():
    corrected = holm([0.01, NAN, 0.04, 0.03])
    assert corrected.tolist() == pytest.approx([0.03, NAN, 0.06, 0.06], nan_ok=True)
    assert holm([0.5, 0.6]).tolist() == [1.0, 1.0]
    assert math.isnan(*holm([NAN])) and holm([]).tolist() == []


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

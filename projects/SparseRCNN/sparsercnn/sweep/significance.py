"""Whether a difference exceeds the noise of training: paired t-tests and Holm's correction."""

import math
import statistics
from dataclasses import dataclass

from scipy import stats

__all__ = [
    "Comparison",
    "PairedTest",
    "compare_variants",
    "holm",
    "main_effects",
    "paired_test",
]

LEVEL = 0.05


@dataclass(frozen=True)
class PairedTest:
    """The mean of paired differences, and a t-test that it is zero.

    Attributes:
        pairs (int): their number.
        difference (float): their mean; None without pairs.
        low (float): of the 95 % confidence interval; None where there is no test: with fewer than
            two pairs, or if all differences are the same.
        high (float): likewise.
        p (float): two-sided; None likewise.
    """

    pairs: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A variant, or a level of an axis, against another one.

    Attributes:
        name (str): of the variant or level.
        reference (str): of the other one.
        test (PairedTest):
        p_holm (float): `test.p` after Holm's correction; None without a test.
        axis (str): of a level; None: of a variant.
    """

    name: str
    reference: str
    test: PairedTest
    p_holm: float | None = None
    axis: str | None = None

    @property
    def verdict(self):
        """str: "yes" if the difference exceeds the noise, "no", or why that cannot be said."""
        if self.p_holm is not None:
            return "yes" if self.p_holm < LEVEL else "no"
        reasons = {0: "no pair", 1: "one seed" if self.axis is None else "one pair"}
        if self.test.pairs in reasons:
            return reasons[self.test.pairs]
        return "same results" if self.test.difference == 0 else "no spread"


def paired_test(pairs):
    """A paired t-test: differences over their standard error, against t of n - 1 degrees.

    Args:
        pairs (sequence[tuple[float, float]]): value and value of the reference.

    Returns:
        PairedTest:
    """
    differences = [value - reference for value, reference in pairs]
    n = len(differences)
    if n == 0:
        return PairedTest(0)
    mean = statistics.fmean(differences)
    spread = statistics.stdev(differences) if n > 1 else 0.0
    # Without a spread the standard error would be zero, and any difference certain.
    if spread <= 1e-9 * max(abs(x) for pair in pairs for x in pair):
        return PairedTest(n, mean)
    error = spread / math.sqrt(n)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return PairedTest(n, mean, mean - half, mean + half, p)


def holm(p_values):
    """Holm's step-down correction (Scand. J. Statist. 6, 1979).

    The smallest of m p-values is multiplied by m, the next by m - 1, and so on; none becomes
    smaller than one before it. Below 5 %, the chance of any false "yes" is at most 5 %.

    Args:
        p_values (sequence[float]): None for what was not tested.

    Returns:
        list[float]: corrected, at most 1, in the same order; None stays.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        corrected[i] = largest
    return corrected


def compare_variants(results):
    """All variants against the baseline, over the seeds that both have.

    Args:
        results (SweepResults):

    Returns:
        dict[str, Comparison]: by the variant's name, without the baseline.
    """
    sweep = results.sweep
    comparisons = [
        Comparison(
            variant.name,
            sweep.baseline,
            paired_test(results.pairs(variant.name, sweep.baseline, sweep.metric)),
        )
        for variant in sweep.variants
        if variant.name != sweep.baseline
    ]
    return {c.name: c for c in _corrected(comparisons)}


def main_effects(results):
    """Each level of an axis against the first, over all combinations of the other axes and seeds.

    Args:
        results (SweepResults):

    Returns:
        list[Comparison]: empty if the sweep has no axes.
    """
    sweep = results.sweep
    by_levels = {frozenset(v.levels.items()): v.name for v in sweep.variants}
    effects = []
    for axis, (first, *others) in sweep.axes.items():
        for level in others:
            pairs = []
            for variant in sweep.variants:
                partner = by_levels.get(frozenset({**variant.levels, axis: first}.items()))
                if variant.levels[axis] == level and partner is not None:
                    pairs += results.pairs(variant.name, partner, sweep.metric)
            effects.append(Comparison(level, first, paired_test(pairs), axis=axis))
    return _corrected(effects)


def _corrected(comparisons):
    corrected = holm([c.test.p for c in comparisons])
    return [
        Comparison(c.name, c.reference, c.test, p, c.axis)
        for c, p in zip(comparisons, corrected, strict=True)
    ]

"""Whether differences exceed noise: paired t-tests, and Holm's correction for many of them."""

from typing import NamedTuple

import numpy as np
from scipy import stats

__all__ = ["PairedTest", "holm", "paired_test"]


class PairedTest(NamedTuple):
    """The mean of paired differences, and a t-test that it is zero.

    There is no test (NaN) of fewer than two pairs, nor of differences that are all the same.
    """

    difference: float  # NaN without pairs
    low_95: float  # ends of the 95 % confidence interval
    high_95: float
    pairs: int
    p: float  # two-sided


def paired_test(values, references):
    """A paired t-test.

    Args:
        values, references (sequence[float]): of equal length; pairs with a NaN are left out.

    Returns:
        PairedTest:
    """
    pairs = np.array([values, references], dtype=float)
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    differences = pairs[0] - pairs[1]
    n = len(differences)
    mean = differences.mean() if n else np.nan
    # Without a spread the standard error would be zero, and any difference certain.
    if n < 2 or differences.std(ddof=1) <= 1e-9 * np.abs(pairs).max():
        return PairedTest(mean, np.nan, np.nan, n, np.nan)
    test = stats.ttest_rel(*pairs)
    return PairedTest(mean, *test.confidence_interval(0.95), n, test.pvalue)


def holm(p_values):
    """Holm's step-down correction (Scand. J. Statist. 6, 1979).

    The smallest of m p-values is multiplied by m, the next by m - 1, and so on; none becomes
    smaller than one before it. Below 5 %, the chance of any false "yes" is at most 5 %.

    Args:
        p_values (sequence[float]): NaN for what was not tested.

    Returns:
        ndarray: corrected, at most 1, in the same order; NaN stays.
    """
    corrected = np.array(p_values, dtype=float)
    order = np.argsort(corrected, kind="stable")[: np.count_nonzero(~np.isnan(corrected))]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.maximum.accumulate(np.minimum(corrected[order] * factors, 1))
    return corrected

"""What scores mean: the best threshold of each class, and calibration."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Threshold", "best_thresholds", "calibration", "expected_calibration_error"]

_DEFAULT = 0.5  # of a class of which nothing is found


@dataclass
class Threshold:
    """The lowest score of a class with which its F1 is highest."""

    score: float
    f1: float  # NaN, like the others, if no object of the class is found
    precision: float
    recall: float


def best_thresholds(truth, detections, matches):
    """The threshold of each class with the highest F1 at an IoU of 0.5.

    It lies half way between the lowest score that is taken and the next one, so that rounding
    changes nothing.

    Args:
        truth (Truth): the objects.
        detections (Detections): what was found.
        matches (Matches): of both.

    Returns:
        list[Threshold]: of the K classes; without a find, the score is 0.5.
    """
    found, counts = matches.simple()
    return [_best_threshold(truth, detections, found, counts, k) for k in range(truth.num_classes)]


def _best_threshold(truth, detections, found, counts, k):
    own = np.flatnonzero(counts & (detections.classes == k))
    own = own[np.argsort(-detections.scores[own], kind="stable")]
    positives = np.count_nonzero((truth.classes == k) & ~truth.crowd)
    right = np.cumsum(found[own] >= 0)
    if not positives or not len(own) or not right[-1]:
        return Threshold(_DEFAULT, np.nan, np.nan, np.nan)
    scores, taken = detections.scores[own], np.arange(1, len(own) + 1)
    # Of equal scores, a threshold takes all or none.
    last = np.append(scores[1:] < scores[:-1], True)
    f1 = np.where(last, 2 * right / (taken + positives), -1)
    best = int(f1.argmax())
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return Threshold(
        score=float((scores[best] + below) / 2),
        f1=float(f1[best]),
        precision=float(right[best] / taken[best]),
        recall=float(right[best] / positives),
    )


def calibration(scores, right, bins=10):
    """How often detections of a score are right; of a calibrated model, as often as the score says.

    Args:
        scores (ndarray): (N,), 0 to 1.
        right (ndarray): (N,), bool.
        bins (int): number of intervals of equal width; the last includes 1.

    Returns:
        dict[str, ndarray]: "low" and "high" ends of each bin, "detections" in it, their mean
        "score" and "precision", NaN where there are none.
    """
    number = np.minimum((scores * bins).astype(int), bins - 1)
    count = np.bincount(number, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [
            np.bincount(number, values, minlength=bins) / count
            for values in (scores, right.astype(float))
        ]
    edges = np.arange(bins + 1) / bins
    return {
        "low": edges[:-1],
        "high": edges[1:],
        "detections": count,
        "score": means[0],
        "precision": means[1],
    }


def expected_calibration_error(table):
    """Mean distance of score and precision over the detections of a :func:`calibration` (Guo and
    others, ICML 2017, equation 3); NaN without any."""
    count = table["detections"]
    if not count.sum():
        return float("nan")
    return float(np.nansum(count * np.abs(table["score"] - table["precision"])) / count.sum())

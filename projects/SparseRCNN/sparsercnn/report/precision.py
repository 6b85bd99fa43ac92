"""Precision, recall and average precision as COCO has them, and how sure they are.

Dimension letters: K classes, A ranges of area, T thresholds of IoU, I images, R resamples.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from .matching import AREAS, IOU_THRESHOLDS

__all__ = ["Curve", "Curves", "average_precision", "bootstrap", "make_curve", "summaries"]

_RECALLS = np.linspace(0.0, 1.0, 101)
_CHUNK = 64  # resamples at a time


@dataclass
class Curve:
    """The detections that count, best first, up to the last that is right: those after it change
    no average precision."""

    images: np.ndarray  # (n,) of these detections
    hits: np.ndarray  # (p,) positions of those that are right
    object_images: np.ndarray  # (m,) of the objects to be found

    def at_recalls(self):
        """ndarray: (101,), highest precision at a recall of 0, 0.01, ... 1 or more."""
        found = np.arange(1, len(self.hits) + 1)
        envelope = np.maximum.accumulate((found / (self.hits + 1))[::-1])[::-1]
        index = np.searchsorted(found / max(len(self.object_images), 1), _RECALLS)
        return np.append(envelope, 0.0)[index]


def make_curve(images, scores, correct, object_images):
    """
    Args:
        images, scores, correct (ndarray): (n,), of the detections that count, in any order; equal
            scores stay in theirs.
        object_images (ndarray): (m,), of the objects to be found.

    Returns:
        Curve: of them.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.flatnonzero(correct[order])
    return Curve(images[order][: hits[-1] + 1 if len(hits) else 0], hits, object_images)


def average_precision(curve, weights):
    """COCO's average precision over 101 recalls, of data in which images occur several times.

    Args:
        curve (Curve): of one class.
        weights (ndarray): (I, R), int32: how often each image occurs; all 1 for the data itself.

    Returns:
        ndarray: (R,), 0 to 1; NaN where there is no object. It is that of the repeated data, up to
        the order of detections with equal scores.
    """
    positives = weights[curve.object_images].sum(axis=0)
    result = np.where(positives > 0, 0.0, np.nan)
    if not len(curve.hits):
        return result
    # A sparse matrix that adds up what lies between two hits is much faster than sums over all.
    starts = np.concatenate([[0], curve.hits + 1])
    entries = (np.ones(len(curve.images), np.int32), curve.images, starts)
    between = csr_array(entries, shape=(len(curve.hits), len(weights)))
    total = np.cumsum(between @ weights, axis=0)
    found = np.cumsum(weights[curve.images[curve.hits]], axis=0)
    precision = found / np.maximum(total, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(_RECALLS, found / np.maximum(positives, 1), side="right")
    gained = np.diff(reached, axis=0, prepend=0)
    return np.where(positives > 0, (envelope * gained).sum(axis=0) / len(_RECALLS), result)


class Curves:
    """The curves of all classes, sizes and thresholds of IoU."""

    def __init__(self, truth, detections, matches):
        """
        Args:
            truth (Truth): the objects.
            detections (Detections): what was found.
            matches (Matches): of both.
        """
        self.num_images = truth.num_images
        self.shape = (truth.num_classes, len(AREAS), len(IOU_THRESHOLDS))
        self._curves = {}
        for k in range(truth.num_classes):
            # Sorted once; Curve needs only the images and the hits of those that count.
            own = np.flatnonzero((detections.classes == k) & matches.kept)
            own = own[np.argsort(-detections.scores[own], kind="stable")]
            images = detections.image[own]
            for a in range(len(AREAS)):
                objects = truth.image[(truth.classes == k) & matches.counted[a]]
                for t in range(len(IOU_THRESHOLDS)):
                    counts = ~matches.ignored[t, a, own]
                    hits = np.flatnonzero(matches.object[t, a, own][counts] >= 0)
                    last = hits[-1] + 1 if len(hits) else 0
                    self._curves[k, a, t] = Curve(images[counts][:last], hits, objects)

    def __getitem__(self, key):
        """The Curve of a class, a range of area and a threshold, by their numbers."""
        return self._curves[key]

    def average_precisions(self, weights=None):
        """
        Args:
            weights (ndarray): (I, R), see :func:`average_precision`; None: each image once.

        Returns:
            ndarray: (R, K, A, T), NaN where there is no object.
        """
        if weights is None:
            weights = np.ones((self.num_images, 1), np.int32)
        result = np.empty((weights.shape[1], *self.shape))
        for (k, a, t), curve in self._curves.items():
            result[:, k, a, t] = average_precision(curve, weights)
        return result


def bootstrap(curves, resamples, seed=0):
    """Average precisions of data sets of the same size, drawn with replacement from the images.

    Args:
        curves (Curves): of a model.
        resamples (int): R.
        seed (int): the same seed draws the same images, so that models can be compared.

    Returns:
        ndarray: (R, K, A, T).
    """
    rng = np.random.default_rng(seed)
    number, results = curves.num_images, [np.empty((0, *curves.shape))]
    for start in range(0, resamples, _CHUNK):
        draws = rng.integers(number, size=(min(_CHUNK, resamples - start), number))
        weights = np.stack([np.bincount(x, minlength=number) for x in draws], axis=1)
        results.append(curves.average_precisions(weights.astype(np.int32)))
    return np.concatenate(results)


_SIZES = {"APs": 1, "APm": 2, "APl": 3}


def summaries(precisions, classes=slice(None)):
    """COCO's six averages, in percent.

    Args:
        precisions (ndarray): (R, K, A, T).
        classes: index of the classes to average over; those without objects are left out.

    Returns:
        dict[str, ndarray]: (R,) of AP, AP50, AP75, APs, APm and APl; NaN without objects.
    """
    every = precisions[:, :, 0]
    parts = {"AP": every, "AP50": every[..., 0:1], "AP75": every[..., 5:6]}
    parts |= {name: precisions[:, :, a] for name, a in _SIZES.items()}
    return {name: 100 * _mean(x[:, classes]) for name, x in parts.items()}


def _mean(values):
    """Mean over all but the first dimension, without NaN; NaN if nothing is left."""
    values = values.reshape(len(values), -1)
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)

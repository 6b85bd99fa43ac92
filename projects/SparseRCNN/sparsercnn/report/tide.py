"""Kinds of errors, and what each costs: TIDE (Bolya and others, ECCV 2020, arXiv 2008.08115).

At an IoU of 0.5, a detection that finds no object has, of its IoUs with the objects of its image,

- cls: at least 0.5 with an object of another class;
- loc: 0.1 to 0.5 with an object of its class;
- both: 0.1 to 0.5 with an object of another class;
- dup: at least 0.5 with an object of its class that a better detection has found;
- bkg: less than 0.1 with all.

An object is missed that neither a detection finds, nor one of cls or loc would. Where several kinds
fit, and where several errors are on one object, what is chosen is as in the authors' program.
"""

from dataclasses import dataclass

import numpy as np

from .precision import average_precision, make_curve
from .records import pairwise_iou, slices

__all__ = ["ERRORS", "KINDS", "Errors", "costs", "find_errors"]

KINDS = ("right", "cls", "loc", "both", "dup", "bkg", "ignored")
"""Of a detection; the numbers in :class:`Errors` are indices of these."""

ERRORS = ("cls", "loc", "both", "dup", "bkg", "miss")

_RIGHT, _CLS, _LOC, _BOTH, _DUP, _BKG, _IGNORED = range(len(KINDS))
_FOUND, _NEAR = 0.5, 0.1  # t_f and t_b of the paper


@dataclass
class Errors:
    """What is wrong with each of N detections.

    Attributes:
        kind (ndarray): (N,), int8, an index of KINDS.
        object (ndarray): (N,), int32: the object that is found, or would be but for the error cls
            or loc; -1: none.
        iou (ndarray): (N,), with that object; 0: none.
    """

    kind: np.ndarray
    object: np.ndarray
    iou: np.ndarray

    def shown(self, detections, thresholds):
        """Detections that count and reach the score of their class (K,), as (N,), bool."""
        return (self.kind != _IGNORED) & (detections.scores >= thresholds[detections.classes])

    def found(self, truth, chosen):
        """Objects that the `chosen` (N,) detections find, as (M,), bool. Of detections above a
        score, these are the same as if there were no others."""
        return _mark(self.object[chosen & (self.kind == _RIGHT)], len(truth.image))

    def missed(self, truth, chosen):
        """Objects that count and are missed by the `chosen` (N,) detections, as (M,), bool."""
        near = np.isin(self.kind, (_RIGHT, _CLS, _LOC))
        return ~truth.crowd & ~_mark(self.object[chosen & near], len(truth.image))


def _mark(index, number):
    marked = np.zeros(number, bool)
    marked[index[index >= 0]] = True
    return marked


def find_errors(truth, detections, matches):
    """
    Args:
        truth (Truth): the objects.
        detections (Detections): what was found.
        matches (Matches): of both.

    Returns:
        Errors: of all detections.
    """
    found, counts = matches.simple()
    used = _mark(found, len(truth.image))
    kind = np.full(len(detections), _IGNORED, np.int8)
    target, ious = found.copy(), np.zeros(len(detections))
    of_image = slices(truth.image, truth.num_images)
    for number, own in enumerate(slices(detections.image, truth.num_images)):
        objects = np.arange(of_image[number].start, of_image[number].stop)
        objects = objects[~truth.crowd[objects]]
        if not len(objects):
            kind[own] = np.where(counts[own], _BKG, _IGNORED)
            continue
        iou = pairwise_iou(detections.boxes[own], truth.boxes[objects])
        same = detections.classes[own][:, None] == truth.classes[objects][None]
        mine, other = np.where(same, iou, 0), np.where(same, 0, iou)
        rows = np.arange(len(iou))
        best, best_other = mine.argmax(axis=1), other.argmax(axis=1)
        mine_best, other_best = mine[rows, best], other[rows, best_other]
        is_loc = (mine_best >= _NEAR) & (mine_best <= _FOUND)
        is_cls = other_best >= _FOUND
        is_dup = np.where(used[objects][None], mine, 0).max(axis=1) >= _FOUND
        is_bkg = iou.max(axis=1) <= _NEAR
        conditions = [~counts[own], found[own] >= 0, is_loc, is_cls, is_dup, is_bkg]
        kind[own] = np.select(conditions, [_IGNORED, _RIGHT, _LOC, _CLS, _DUP, _BKG], _BOTH)
        chosen = np.where(kind[own] == _LOC, best, best_other)
        wrong = np.isin(kind[own], (_LOC, _CLS))
        target[own] = np.where(wrong, objects[chosen], found[own])
        right = kind[own] == _RIGHT
        ious[own] = np.where(wrong, iou[rows, chosen], 0)
        ious[own][right] = iou[right, np.searchsorted(objects, found[own][right])]
    return Errors(kind, target, ious)


def costs(truth, detections, matches, errors):
    """What each kind of error costs: how much AP50 rises if an oracle corrects it alone.

    A cls error gets the right class and a loc error the right box, unless the object is found
    already, or a better error is on it: then they vanish, as both, dup and bkg do. Missed objects
    are no longer counted.

    Args:
        truth, detections, matches: as of :func:`find_errors`.
        errors (Errors): from it.

    Returns:
        dict[str, float]: by name of ERRORS, and "AP50" as it is, in percent.
    """
    kept = np.ones(len(detections), bool)
    right = errors.kind == _RIGHT
    wanted = matches.counted[0]
    whole = _ap50(truth, detections, kept, right, detections.classes, errors, wanted)
    result = {"AP50": whole}
    fixable = _fixable(truth, detections, errors, right)
    for number, name in enumerate(KINDS[1:6], start=1):
        own = errors.kind == number
        fixed = own & fixable
        classes = detections.classes.copy()
        classes[fixed] = truth.classes[errors.object[fixed]]
        after = _ap50(truth, detections, ~own | fixed, right | fixed, classes, errors, wanted)
        result[name] = after - whole
    missed = errors.missed(truth, errors.kind != _IGNORED)
    after = _ap50(truth, detections, kept, right, detections.classes, errors, wanted & ~missed)
    return {**result, "miss": after - whole}


def _fixable(truth, detections, errors, right):
    """(N,), bool: of the errors cls and loc on an object that nothing finds, the best."""
    rows = np.flatnonzero(np.isin(errors.kind, (_CLS, _LOC)))
    rows = rows[~_mark(errors.object[right], len(truth.image))[errors.object[rows]]]
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    fixable = np.zeros(len(detections), bool)
    fixable[rows[np.unique(errors.object[rows], return_index=True)[1]]] = True
    return fixable


def _ap50(truth, detections, kept, right, classes, errors, wanted):
    """Mean over the classes, in percent."""
    kept = kept & (errors.kind != _IGNORED)
    once = np.ones((truth.num_images, 1), np.int32)
    values = []
    for k in range(truth.num_classes):
        own = kept & (classes == k)
        objects = truth.image[wanted & (truth.classes == k)]
        columns = (detections.image[own], detections.scores[own], right[own])
        values.append(average_precision(make_curve(*columns, objects), once)[0])
    return 100 * float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")

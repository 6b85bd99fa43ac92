"""Which detection finds which object, by COCO's rules, at all thresholds and sizes at once.

Dimension letters: T thresholds of IoU, A ranges of area, N detections, M objects.
"""

from dataclasses import dataclass

import numpy as np

from .records import pairwise_iou

__all__ = ["AREAS", "IOU_THRESHOLDS", "Matches", "match"]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""COCO's ranges of area in pixels, both ends included."""

_MOST = 100  # detections of a class in an image


@dataclass
class Matches:
    """What COCO's evaluation finds out about each detection and object.

    Attributes:
        kept (ndarray): (N,), bool: among the 100 best of its class in its image.
        object (ndarray): (T, A, N), int32: the object found; -1: none.
        ignored (ndarray): (T, A, N), bool: neither right nor wrong: it is on a crowd, or on an
            object out of the range, or itself out of the range without an object.
        counted (ndarray): (A, M), bool: objects that are to be found.
    """

    kept: np.ndarray
    object: np.ndarray
    ignored: np.ndarray
    counted: np.ndarray

    def simple(self):
        """At an IoU of 0.5 and for all sizes.

        Returns:
            tuple[ndarray, ndarray]: (N,), the object; -1 for none and for what does not count. And
            (N,), bool: the detection counts.
        """
        counts = self.kept & ~self.ignored[0, 0]
        return np.where(counts, self.object[0, 0], -1), counts


def match(truth, detections):
    """Match detections and objects as COCOeval does.

    In each image and class, detections take in the order of their scores the free object of the
    highest IoU that reaches the threshold; objects that do not count, and crowds, which any number
    of detections may take, only if there is no other.

    Args:
        truth (Truth): the objects.
        detections (Detections): of the same data set.

    Returns:
        Matches: at the thresholds IOU_THRESHOLDS and for the sizes of AREAS.
    """
    ranges = np.array(list(AREAS.values()))
    outside = _outside(truth.areas, ranges)
    T, A, N = len(IOU_THRESHOLDS), len(ranges), len(detections)
    sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
    result = Matches(
        kept=np.zeros(N, bool),
        object=np.full((T, A, N), -1, np.int32),
        ignored=np.repeat(_outside(sides.prod(axis=1), ranges)[None], T, axis=0),
        counted=~(outside | truth.crowd),
    )
    of_object = _groups(truth.image, truth.classes, truth.num_classes)
    for key, members in _groups(detections.image, detections.classes, truth.num_classes).items():
        members = members[:_MOST]
        result.kept[members] = True
        if key in of_object:
            _match_group(truth, detections, members, of_object[key], result)
    return result


def _outside(areas, ranges):
    """(A, n), bool."""
    return (areas < ranges[:, :1]) | (areas > ranges[:, 1:])


def _groups(image, classes, num_classes):
    """Indices (ndarray) of each image and class that occur, in their order, by a number of both."""
    keys = image.astype(np.int64) * num_classes + classes
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    parts = np.split(order, starts[1:]) if len(keys) else []
    return dict(zip(values.tolist(), parts, strict=True))


def _match_group(truth, detections, members, objects, result):
    """Fill in the matches of detections (by index) of one image and class, best first."""
    objects = objects[::-1]  # of objects of the same IoU, COCOeval takes the last, argmax the first
    crowd = truth.crowd[objects]
    iou = pairwise_iou(detections.boxes[members], truth.boxes[objects], crowd)
    # As in COCOeval, an IoU of exactly the threshold is enough.
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    rows = np.flatnonzero(iou.max(axis=1) >= thresholds[0])
    if not len(rows):
        return
    iou, members = iou[rows], members[rows]
    counted = result.counted[:, objects]
    values = iou[:, None] + 2 * counted  # (n, A, G)
    enough = (iou[:, None] >= thresholds[:, None])[:, :, None]  # (n, T, 1, G)
    free = np.ones((len(thresholds), *counted.shape), bool)
    chosen = np.empty((len(rows), *free.shape[:2]), np.int64)
    found = np.empty(chosen.shape, bool)
    columns = np.arange(len(objects))
    for row in range(len(rows)):
        possible = free & enough[row]
        chosen[row] = np.where(possible, values[row], -1).argmax(axis=2)
        found[row] = possible.any(axis=2)
        taken = (columns == chosen[row, ..., None]) & possible & ~crowd
        free &= ~taken
    n, t, a = np.nonzero(found)
    chosen = chosen[n, t, a]
    result.object[t, a, members[n]] = objects[chosen]
    result.ignored[t, a, members[n]] = ~counted[a, chosen]

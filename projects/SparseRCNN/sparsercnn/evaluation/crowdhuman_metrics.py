"""The three metrics of CrowdHuman: AP at IoU 0.5, MR^-2 and the Jaccard index.

The rules are those of the published figures: Caltech's matching with ignore regions (Dollar et al.,
PAMI 2012) as used by CrowdHuman (arXiv 1805.00123), and JI of Chu et al. (CVPR 2020, arXiv
2003.09163). Boxes are absolute xyxy. One image has D detections, P persons and R ignore regions; D
is not limited.
"""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask
from scipy.optimize import linear_sum_assignment

__all__ = ["ImageMatch", "LOWER_IS_BETTER", "crowdhuman_metrics", "match_image"]

LOWER_IS_BETTER = ("MR",)  # for all other metrics, higher is better

_IOU_THRESH = 0.5  # matches must exceed it, and so must the part of a box in an ignore region
_FALSE_POSITIVES = np.round(np.logspace(-2, 0, 9), 4)  # per image; rounded as in common use
_LEAST_MISS_RATE = 1e-10  # Caltech's, keeps the logarithm finite
_JI_SCORES = np.arange(10) / 10  # score thresholds; JI is reported for the best one


@dataclass
class ImageMatch:
    """The result of matching one image.

    Attributes:
        scores: (D',), scores of the detections that count, best first. Unmatched detections inside
            of an ignore region do not count.
        right: (D',), bool: whether the detection is matched to a person.
        num_persons (int): P.
        jaccard: (10,), JI for each score threshold; NaN if neither a detection nor a person counts.
    """

    scores: np.ndarray
    right: np.ndarray
    num_persons: int
    jaccard: np.ndarray


def match_image(boxes, scores, persons, ignored, image_size):
    """Compare the detections of one image with its annotations, all clipped to the image.

    Args:
        boxes: (D, 4), detections.
        scores: (D,).
        persons: (P, 4).
        ignored: (R, 4), regions in which a detection is neither right nor wrong.
        image_size (tuple[int, int]): height and width in pixels.
    """
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    boxes, persons, ignored = (
        _clipped_xywh(x, image_size) for x in (boxes[order], persons, ignored)
    )
    iou = _overlap(boxes, persons, of_first=False)
    in_ignored = _is_inside(boxes, ignored)
    right = _match_greedily(iou)
    counts = right | ~in_ignored
    jaccard = _jaccard(iou, scores, in_ignored, _is_inside(persons, ignored))
    return ImageMatch(scores[counts], right[counts], len(persons), jaccard)


def crowdhuman_metrics(matches):
    """
    Args:
        matches (sequence[ImageMatch]): one per image, at least one. Equal scores are ranked in
            this order.

    Returns:
        dict[str, float]: in percent

        * AP50: the area under the curve of precision over recall at IoU 0.5, by the trapezoidal
          rule over all detections, without COCO's interpolation of the precision at 101 recalls.
          The curve is constant up to the first detection; the code behind published figures leaves
          out that part, which is at most 1 / the number of persons.
        * MR: MR^-2, the geometric mean of the miss rates at nine numbers of false positives per
          image, logarithmically spaced from 0.01 to 1. Lower is better. If the curve ends earlier,
          its last miss rate is used.
        * JI: the mean over images of matched / (detections + persons - matched), at the best of
          the score thresholds 0, 0.1, ..., 0.9.

        All are NaN if there is no person.
    """
    num_persons = sum(match.num_persons for match in matches)
    if num_persons == 0:
        return dict.fromkeys(("AP50", "MR", "JI"), float("nan"))
    scores = np.concatenate([match.scores for match in matches])
    right = np.concatenate([match.right for match in matches])
    right = right[np.argsort(-scores, kind="stable")]
    metrics = {
        "AP50": _average_precision(right, num_persons),
        "MR": _log_average_miss_rate(right, num_persons, len(matches)),
        "JI": _best_mean(np.stack([match.jaccard for match in matches])),
    }
    return {name: 100 * float(value) for name, value in metrics.items()}


def _clipped_xywh(boxes, image_size):
    """Clip xyxy boxes to the image, and convert them to pycocotools' xywh."""
    height, width = image_size
    boxes = np.clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 0, [width, height] * 2)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _overlap(first, second, of_first):
    """(F, S): intersection over union, or over the area of the first box; boxes are xywh."""
    if len(first) == 0 or len(second) == 0:
        return np.zeros((len(first), len(second)))
    return mask.iou(first, second, np.full(len(second), of_first, dtype=np.uint8))


def _is_inside(boxes, regions):
    """(N,), bool: whether more than half of the box lies in one of the regions."""
    return (_overlap(boxes, regions, of_first=True) > _IOU_THRESH).any(axis=1)


def _match_greedily(iou):
    """(D,), bool: whether a detection is matched. By descending score, each detection takes the
    unmatched person with the highest IoU."""
    free = np.where(iou > _IOU_THRESH, iou, 0)
    right = np.zeros(len(iou), dtype=bool)
    for detection in np.flatnonzero(free.any(axis=1)):
        person = free[detection].argmax()
        if free[detection, person] > 0:
            right[detection] = True
            free[:, person] = 0
    return right


def _jaccard(iou, scores, detection_in_ignored, person_in_ignored):
    """(10,): JI for each score threshold; see :class:`ImageMatch`.

    For each threshold, detections and persons are matched for the largest number of pairs, and
    among those for the highest IoU. Unmatched ones inside of an ignore region do not count.
    """
    numbers = (scores > _JI_SCORES[:, None]).sum(axis=1)  # detections are sorted by score
    value = {}
    for number in np.unique(numbers):
        rows, columns = _most_matches(iou[:number])
        detection_counts, person_counts = ~detection_in_ignored[:number], ~person_in_ignored
        detection_counts[rows] = person_counts[columns] = True
        union = detection_counts.sum() + person_counts.sum() - len(rows)
        value[number] = len(rows) / union if union else np.nan
    return np.array([value[number] for number in numbers])


def _most_matches(iou):
    """Rows and columns of the largest set of pairs, with the highest total IoU among these."""
    candidates = np.flatnonzero((iou > _IOU_THRESH).any(axis=1))
    iou = iou[candidates]
    # One more pair is worth more than the largest possible total IoU.
    worth = np.where(iou > _IOU_THRESH, iou.shape[1] + 1 + iou, 0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    is_pair = worth[rows, columns] > 0
    return candidates[rows[is_pair]], columns[is_pair]


def _average_precision(right, num_persons):
    if len(right) == 0:
        return 0.0
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    recall = np.concatenate([[0], found / num_persons])
    precision = np.concatenate([precision[:1], precision])
    return np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2)


def _log_average_miss_rate(right, num_persons, num_images):
    if len(right) == 0:
        return 1.0
    miss_rate = 1 - np.cumsum(right) / num_persons
    false_positives = np.cumsum(~right) / num_images
    index = np.searchsorted(false_positives, _FALSE_POSITIVES)  # first entry that is not smaller
    sampled = miss_rate[np.minimum(index, len(right) - 1)]
    return np.exp(np.log(np.maximum(sampled, _LEAST_MISS_RATE)).mean())


def _best_mean(jaccard):
    """The highest of the 10 means over images of jaccard (images, 10), without NaN."""
    counts = (~np.isnan(jaccard)).sum(axis=0)
    sums = np.nansum(jaccard, axis=0)
    return max((s / n for s, n in zip(sums, counts, strict=True) if n), default=np.nan)

"""The three metrics of CrowdHuman: AP at IoU 0.5, MR^-2 and the Jaccard index.

The rules are those of the published figures: Caltech's matching with regions to ignore (Dollar et
al., PAMI 2012), as CrowdHuman (arXiv 1805.00123) uses it, and JI as of Chu et al. (CVPR 2020, arXiv
2003.09163). Boxes are absolute xyxy. D is the number of detections, P of persons and R of regions
to ignore, in one image. Nothing limits D.
"""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask
from scipy.optimize import linear_sum_assignment

__all__ = ["ImageMatch", "LOWER_IS_BETTER", "crowdhuman_metrics", "match_image"]

LOWER_IS_BETTER = ("MR",)  # of all metrics

_IOU_THRESH = 0.5  # a match needs more, and so does being inside of a region to ignore
_FALSE_POSITIVES = np.round(np.logspace(-2, 0, 9), 4)  # per image: the rounded ones are in use
_LEAST_MISS_RATE = 1e-10  # Caltech's, so that the logarithm is finite
_JI_SCORES = np.arange(10) / 10  # JI is the best of the detections that score above one of these


@dataclass
class ImageMatch:
    """What one image adds to the metrics.

    Attributes:
        scores: (D',), of the detections that are right or wrong, best first. Those inside of a
            region to ignore are left out.
        right: (D',), bool: the detection is a person's.
        num_persons (int): P.
        jaccard: (10,), JI of the detections above each threshold of the score; NaN where neither a
            detection nor a person counts.
    """

    scores: np.ndarray
    right: np.ndarray
    num_persons: int
    jaccard: np.ndarray


def match_image(boxes, scores, persons, ignored, image_size):
    """Compare the detections of one image with its annotations, all clipped to the image.

    Args:
        boxes: (D, 4), of the detections.
        scores: (D,).
        persons: (P, 4).
        ignored: (R, 4), regions where a detection is neither right nor wrong.
        image_size (tuple[int, int]): height and width in pixels.

    Returns:
        ImageMatch:
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
        matches (sequence[ImageMatch]): one per image, at least one. Equal scores count in their
            order.

    Returns:
        dict[str, float]: in percent

        * AP50: the area below the curve of precision over recall at IoU 0.5, by the trapezoidal
          rule over all detections, precision as it is (COCO takes the highest at no less recall, at
          101 recalls). Before the first detection the curve is level; the code behind published
          figures leaves out that part, which is at most 1 / the number of persons.
        * MR: the geometric mean of the miss rates at nine numbers of false positives per image,
          evenly spaced in the logarithm from 0.01 to 1: MR^-2. Lower is better. A curve that ends
          before counts with its last miss rate.
        * JI: the mean over images of matched / (detections + persons - matched), for the best of
          the thresholds 0, 0.1, ..., 0.9 of the score.

        NaN if there is no person at all.
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
    """The form that pycocotools takes."""
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
    """(N,), bool: more than half of the box lies in one of the regions."""
    return (_overlap(boxes, regions, of_first=True) > _IOU_THRESH).any(axis=1)


def _match_greedily(iou):
    """(D,), bool: best score first, each detection takes the free person that it overlaps most."""
    free = np.where(iou > _IOU_THRESH, iou, 0)
    right = np.zeros(len(iou), dtype=bool)
    for detection in np.flatnonzero(free.any(axis=1)):
        person = free[detection].argmax()
        if free[detection, person] > 0:
            right[detection] = True
            free[:, person] = 0
    return right


def _jaccard(iou, scores, detection_in_ignored, person_in_ignored):
    """(10,): JI for each threshold of the score; see :class:`ImageMatch`.

    Detections and persons are matched anew for each, most pairs first and then most IoU. Of those
    that are not matched, the ones inside of a region to ignore do not count.
    """
    numbers = (scores > _JI_SCORES[:, None]).sum(axis=1)  # best first, so that they come first
    value = {}
    for number in np.unique(numbers):
        rows, columns = _most_matches(iou[:number])
        detection_counts, person_counts = ~detection_in_ignored[:number], ~person_in_ignored
        detection_counts[rows] = person_counts[columns] = True
        union = detection_counts.sum() + person_counts.sum() - len(rows)
        value[number] = len(rows) / union if union else np.nan
    return np.array([value[number] for number in numbers])


def _most_matches(iou):
    """Rows and columns of a largest set of pairs, and of those the one with the greatest IoU."""
    candidates = np.flatnonzero((iou > _IOU_THRESH).any(axis=1))
    iou = iou[candidates]
    # One pair more is worth more than all the IoU there can be.
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
    index = np.searchsorted(false_positives, _FALSE_POSITIVES)  # of the first that is no less
    sampled = miss_rate[np.minimum(index, len(right) - 1)]
    return np.exp(np.log(np.maximum(sampled, _LEAST_MISS_RATE)).mean())


def _best_mean(jaccard):
    """The highest mean over the images that count, of (images, 10)."""
    counts = (~np.isnan(jaccard)).sum(axis=0)
    sums = np.nansum(jaccard, axis=0)
    return max((s / n for s, n in zip(sums, counts, strict=True) if n), default=np.nan)

"""Comparison of an exported model with the one that it was made from, on one picture."""

import math
from dataclasses import dataclass

import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image

from ..data.shapes import draw_scene
from ..errors import ExportError

__all__ = ["Differences", "compare", "example_image", "require_same"]

_MIN_SCORE = 0.05  # of the detections that are compared
# Beyond these, an export in float32 is wrong. Rounding alone is a hundredth of it.
_MAX_PIXELS, _MAX_SCORE, _MAX_LABELS = 1.0, 0.01, 0.01


@dataclass
class Differences:
    """The largest differences between two models on one picture.

    Attributes:
        count: detections of the first model with a score of at least 0.05; None for segmentation.
        pixels, score: of boxes in pixels, and of scores, between detections of the same class,
            each with the nearest one; infinite if there is none.
        labels: share of the pixels with another label; None for detection.
    """

    count: int | None = None
    pixels: float = 0.0
    score: float = 0.0
    labels: float | None = None

    def __str__(self):
        if self.labels is not None:
            return f"{100 * self.labels:.4f} % of the labels, {self.score:.2g} in the logits"
        return (
            f"{self.pixels:.2g} pixels and {self.score:.2g} in score, of {self.count} detections "
            f"with a score of at least {_MIN_SCORE}"
        )


def compare(expected, found):
    """
    Args:
        expected, found (dict): outputs of two models for one image, on the CPU: "instances" or
            "sem_seg".

    Returns:
        Differences: between them.
    """
    if "sem_seg" in expected:
        ours, theirs = (x["sem_seg"] for x in (expected, found))
        changed = (ours.argmax(0) != theirs.argmax(0)).double().mean().item()
        return Differences(score=(ours - theirs).abs().max().item(), labels=changed)
    ours, theirs = (x["instances"] for x in (expected, found))
    pairs = [_nearest(ours, theirs), _nearest(theirs, ours)]
    return Differences(
        count=int((ours.scores >= _MIN_SCORE).sum()),
        pixels=max(pixels for pixels, _ in pairs),
        score=max(score for _, score in pairs),
    )


def require_same(differences, path):
    """Raise ExportError if the differences are larger than rounding can make them."""
    different = differences.pixels > _MAX_PIXELS or (differences.labels or 0) > _MAX_LABELS
    if different or (differences.labels is None and differences.score > _MAX_SCORE):
        raise ExportError(
            f"{path} is not written: on one picture the exported model differs from the original "
            f"by {differences}. Please report this with the config."
        )


def example_image(input_format):
    """(H, W, 3), the drawn picture on which models are compared, in a channel order."""
    return convert_PIL_to_numpy(Image.fromarray(draw_scene((0,), 480).image), input_format)


def _nearest(ours, theirs):
    """The largest distances (pixels, score) of our good detections to theirs."""
    ours = ours[ours.scores >= _MIN_SCORE]
    if len(ours) == 0:
        return 0.0, 0.0
    same = ours.pred_classes[:, None] == theirs.pred_classes
    if not same.any(1).all():
        return math.inf, math.inf
    pixels = torch.cdist(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, p=math.inf)
    score = (ours.scores[:, None] - theirs.scores).abs()
    # A hundredth of a pixel counts as a ten thousandth of the score.
    distance = torch.maximum(pixels, 100 * score).masked_fill(~same, math.inf)
    nearest = distance.argmin(1)[:, None]
    return pixels.gather(1, nearest).max().item(), score.gather(1, nearest).max().item()

"""Matching costs of proposals and objects, batched over stages and images.

Each cost takes predictions (S, B, N, ...) and padded objects (B, M, ...) and returns (S, B, N, M).
Class costs are in :mod:`sparsercnn.modeling.classification`.
"""

from dataclasses import dataclass, field

import torch

from ..boxes import pairwise_giou
from ..classification import FocalClassification, SoftmaxClassification, build_classification

__all__ = [
    "LossWeights",
    "MatchingCost",
    "build_matching_cost",
    "l1_cost",
    "giou_cost",
]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three losses and of the three matching costs.

    Attributes:
        classification, l1, giou: lambda_cls, lambda_L1 and lambda_giou.
    """

    classification: float = 2.0
    l1: float = 5.0
    giou: float = 2.0

    @classmethod
    def from_config(cls, cfg):
        """LossWeights: from MODEL.SparseRCNN."""
        sparse = cfg.MODEL.SparseRCNN
        return cls(classification=sparse.CLASS_WEIGHT, l1=sparse.L1_WEIGHT, giou=sparse.GIOU_WEIGHT)


@dataclass(frozen=True)
class MatchingCost:
    """The cost of matching a proposal with an object: weighted sum of class, L1 and GIoU cost.

    Attributes:
        classification: computes the class cost.
        weights: of the three costs.
    """

    classification: FocalClassification | SoftmaxClassification = field(
        default_factory=FocalClassification
    )
    weights: LossWeights = field(default_factory=LossWeights)

    def __call__(self, class_logits, boxes, targets):
        """The cost of one-to-one matching (DETR, section 3.1; Sparse R-CNN, section 3.3).

        Args:
            class_logits: (S, B, N, K), or K + 1 with the softmax.
            boxes: (S, B, N, 4), absolute xyxy.
            targets (Targets): the objects.

        Returns:
            Tensor: (S, B, N, M); columns of padding are to be ignored.
        """
        return (
            self.weights.classification * self.classification.cost(class_logits, targets.classes)
            + self.weights.l1 * l1_cost(boxes, targets.boxes, targets.image_sizes)
            + self.weights.giou * giou_cost(boxes, targets.boxes)
        )

    def loss_change(self, class_logits, boxes, targets):
        """Weighted losses of a proposal if matched with the object, minus those as background,
        which has no box losses (Dynamic Sparse R-CNN, section 3.2).

        Arguments and return value are those of a call.
        """
        change = self.classification.loss_change(class_logits, targets.classes)
        return (
            self.weights.classification * change
            + self.weights.l1 * l1_cost(boxes, targets.boxes, targets.image_sizes)
            + self.weights.giou * (1 + giou_cost(boxes, targets.boxes))
        )


def build_matching_cost(cfg):
    """MatchingCost: from MODEL.SparseRCNN, for any matcher."""
    return MatchingCost(build_classification(cfg), LossWeights.from_config(cfg))


def l1_cost(boxes, target_boxes, image_sizes):
    """L1 distance of the boxes' corners, as fractions of the image's size.

    Args:
        boxes: (S, B, N, 4), absolute xyxy.
        target_boxes: (B, M, 4), absolute xyxy.
        image_sizes: (B, 4), (w, h, w, h).
    """
    sizes = image_sizes[:, None]
    return torch.cdist(boxes / sizes, (target_boxes / sizes)[None], p=1)


def giou_cost(boxes, target_boxes):
    """Minus the generalised IoU; arguments as in :func:`l1_cost`."""
    return -pairwise_giou(boxes, target_boxes.expand(len(boxes), -1, -1, -1))

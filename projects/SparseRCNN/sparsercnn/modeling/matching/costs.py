"""Matching costs of proposals and objects, batched over stages and images.

Each cost takes predictions (S, B, N, ...) and padded objects (B, M, ...) and returns (S, B, N, M).
"""

import torch
import torch.nn.functional as F

from ..boxes import pairwise_giou

__all__ = ["cost_settings", "focal_cost", "softmax_cost", "l1_cost", "giou_cost"]


def cost_settings(cfg):
    """The weights and constants that costs and losses have in common.

    Args:
        cfg (CfgNode):

    Returns:
        dict: arguments of matchers and of :class:`~sparsercnn.modeling.criterion.SetCriterion`.
    """
    sparse = cfg.MODEL.SparseRCNN
    return {
        "class_weight": sparse.CLASS_WEIGHT,
        "l1_weight": sparse.L1_WEIGHT,
        "giou_weight": sparse.GIOU_WEIGHT,
        "use_focal": sparse.USE_FOCAL,
        "alpha": sparse.ALPHA,
        "gamma": sparse.GAMMA,
    }


def focal_cost(class_logits, classes, alpha=0.25, gamma=2.0):
    """What the focal loss of the object's class changes by if the proposal is its positive.

    FL+(p) - FL-(p) at the object's class, with FL+ = -alpha (1 - p)^gamma log p and
    FL- = -(1 - alpha) p^gamma log(1 - p) (Focal Loss, ICCV 2017; Sparse R-CNN, section 3.3).

    Args:
        class_logits: (S, B, N, K), before the sigmoid.
        classes: (B, M), in [0, K).
    """
    logits = _logits_of_objects(class_logits, classes)
    score = logits.sigmoid()
    positive = -alpha * (1 - score) ** gamma * F.logsigmoid(logits)
    negative = -(1 - alpha) * score**gamma * F.logsigmoid(-logits)
    return positive - negative


def softmax_cost(class_logits, classes):
    """Minus the probability of the object's class (DETR, section 3.1).

    Args:
        class_logits: (S, B, N, K + 1), before the softmax; the last one is "no object".
        classes: (B, M), in [0, K).
    """
    return -_logits_of_objects(class_logits.softmax(-1), classes)


def l1_cost(boxes, target_boxes, image_sizes):
    """Sum of the absolute differences of the boxes' corners, as fractions of the image's size.

    Args:
        boxes: (S, B, N, 4), absolute xyxy.
        target_boxes: (B, M, 4), absolute xyxy.
        image_sizes: (B, 4), (w, h, w, h).
    """
    sizes = image_sizes[:, None]
    return torch.cdist(boxes / sizes, (target_boxes / sizes)[None], p=1)


def giou_cost(boxes, target_boxes):
    """Minus the generalised IoU.

    Args:
        boxes: (S, B, N, 4), absolute xyxy.
        target_boxes: (B, M, 4), absolute xyxy.
    """
    return -pairwise_giou(boxes, target_boxes.expand(len(boxes), -1, -1, -1))


def _logits_of_objects(class_logits, classes):
    S, _, N, _ = class_logits.shape
    index = classes[None, :, None].expand(S, -1, N, -1)
    return class_logits.gather(-1, index)

"""Box functions with leading dimensions, built on torchvision."""

import torch
from torchvision.ops import generalized_box_iou

__all__ = ["pairwise_giou", "paired_giou"]


def pairwise_giou(boxes1, boxes2):
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of all pairs, for each leading index.

    Args:
        boxes1: (..., N, 4), absolute xyxy.
        boxes2: (..., M, 4), absolute xyxy, with the same leading dimensions.

    Returns:
        Tensor: (..., N, M), in [-1, 1].
    """
    lead = boxes1.shape[:-2]
    giou = torch.vmap(generalized_box_iou)(
        boxes1.reshape(-1, *boxes1.shape[-2:]), boxes2.reshape(-1, *boxes2.shape[-2:])
    )
    return giou.view(*lead, *giou.shape[-2:])


def paired_giou(boxes1, boxes2):
    """Generalised IoU of corresponding boxes.

    torchvision's and fvcore's GIoU losses wait for the device, to select overlapping pairs by a
    boolean index or to assert valid boxes; :func:`pairwise_giou` does neither.

    Args:
        boxes1, boxes2: (..., 4), absolute xyxy.

    Returns:
        Tensor: (...), in [-1, 1].
    """
    return pairwise_giou(boxes1[..., None, :], boxes2[..., None, :])[..., 0, 0]

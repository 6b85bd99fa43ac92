"""Non-maximum suppression of a batch, in tensors of fixed size."""

import math

import torch
from torchvision.ops import nms

__all__ = ["spread", "suppress"]


def suppress(boxes, classes, num_classes, threshold):
    """Greedy NMS among the boxes of one image and class.

    Args:
        boxes: (B, N, 4), absolute xyxy, in descending order of score; finite.
        classes: (B, N) or (N,), int64, in [0, K).
        num_classes (int): K.
        threshold (float): boxes of a larger IoU with a better one that is kept are dropped.

    Returns:
        Tensor: (B, N), True for boxes that are kept.
    """
    B, N, _ = boxes.shape
    image = torch.arange(B, device=boxes.device)[:, None].expand(B, N).flatten()
    apart = spread(boxes.flatten(0, 1), image, classes.expand(B, N).flatten(), num_classes)
    # Positive and all different: a runtime may drop scores below 0, and order equal ones at will.
    rank = (N - torch.arange(N, device=boxes.device)).float().expand(B, N).flatten()
    kept = nms(apart, rank, threshold)
    mask = torch.zeros(B * N, dtype=torch.int64, device=boxes.device)
    return (mask.index_put((kept,), torch.ones_like(kept)) > 0).view(B, N)


def spread(boxes, images, classes, num_classes):
    """Move boxes so that those of different images or classes do not overlap.

    Classes are laid out in a square, and images below each other: in a row, as
    :func:`torchvision.ops.batched_nms` does it, coordinates would be larger, and less exact.

    Args:
        boxes: (R, 4), absolute xyxy.
        images, classes: (R,), int64.
        num_classes (int): K.

    Returns:
        Tensor: (R, 4).
    """
    columns = math.ceil(math.sqrt(num_classes))
    rows = math.ceil(num_classes / columns)
    row = images * rows + torch.div(classes, columns, rounding_mode="floor")
    place = torch.stack([classes % columns, row], dim=1).repeat(1, 2)
    # One more than the widest distance, of a box that is always there.
    extent = torch.cat([boxes, boxes.new_zeros(1, 4)])
    step = extent.max() - extent.min() + 1
    return boxes + place.to(boxes.dtype) * step

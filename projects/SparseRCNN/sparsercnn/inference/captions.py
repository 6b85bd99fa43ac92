"""Where captions go, and which detections are further ones of the same object."""

import numpy as np
import torch
from torchvision.ops import box_iou

__all__ = ["number_duplicates", "place_captions"]

_SAME_OBJECT = 0.5  # IoU above which two detections of a class are taken for one object


def number_duplicates(boxes, classes, scores):
    """Count the detections of each object.

    Args:
        boxes: (N, 4), absolute xyxy.
        classes: (N,).
        scores: (N,).

    Returns:
        list[int]: 1 for the first detection of an object; n for one of a class that n - 1 better
        ones of it overlap.
    """
    boxes, classes, scores = (torch.as_tensor(x) for x in (boxes, classes, scores))
    iou = box_iou(boxes.float().reshape(-1, 4), boxes.float().reshape(-1, 4))
    rank = torch.empty(len(scores), dtype=torch.int64)
    rank[scores.argsort(descending=True, stable=True)] = torch.arange(len(scores))
    is_better = rank[:, None] > rank[None, :]
    same = (iou > _SAME_OBJECT) & (classes[:, None] == classes[None, :])
    return (1 + (same & is_better).sum(dim=1)).tolist()


def place_captions(boxes, sizes, image_size):
    """Place a caption by each box so that none covers another, as long as there is room.

    Tried in turn are the corners of the box, inside and outside, rows below and above it, and rows
    anywhere.

    Args:
        boxes (ndarray): (N, 4), absolute xyxy; the first ones are placed first.
        sizes (ndarray): (N, 2), width and height of the captions, in the same unit.
        image_size (tuple[float, float]): height and width.

    Returns:
        ndarray: (N, 2), the top left corners, inside of the image where captions fit into it.
    """
    height, width = image_size
    placed = np.zeros((0, 4))
    for box, size in zip(np.asarray(boxes, float), np.asarray(sizes, float), strict=True):
        corners = _candidates(box, size, height, width)
        corners = np.clip(corners, 0, np.maximum([width - size[0], height - size[1]], 0))
        rectangles = np.concatenate([corners, corners + size], axis=1)
        covers = _overlap(rectangles, placed).any(axis=1)
        placed = np.concatenate([placed, rectangles[covers.argmin()][None]])
    return placed[:, :2]


def _candidates(box, size, height, width):
    x0, y0, x1, y1 = box
    w, h = size
    corners = [(x0, y0), (x0, y0 - h), (x1 - w, y0), (x0, y1), (x0, y1 - h), (x1 - w, y1 - h)]
    corners += [(x1, y0), (x0 - w, y0)]
    rows = np.arange(1, int(height / h) + 2) * h
    above_and_below = y0 + np.ravel([rows, -rows], order="F")
    corners += [(x, y) for y in above_and_below for x in (x0, x1 - w)]
    corners += [(x, y) for x in np.arange(0, width, w) for y in above_and_below]
    return np.array(corners)


def _overlap(first, second):
    """(len(first), len(second)), bool: whether rectangles share an area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return (high - low > 1e-6).all(axis=2)

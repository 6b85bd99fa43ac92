"""Augmentations that make one training image of several: mosaic, copy-paste, mixup.

A mix is called with a sample, that is "image", a tensor (C, H, W), and "instances", with the fields
of :func:`~sparsercnn.data.slivers.tracked_instances` and masks as bitmasks if at all; and with
`draw`, a function that returns another one. It returns a new sample. Random numbers are NumPy's
global ones, which the training loader seeds for each sample.
"""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

__all__ = ["CopyPaste", "MixUp", "Mosaic"]

_GREY = 114  # where a mosaic has no picture


class Mosaic:
    """Four images around a point, as in YOLOv4 (Bochkovskiy et al., 2020).

    The mosaic has the size of the first image, which keeps one of its four corners. Each image is
    scaled; what does not fit its corner is cut off at random, what is missing is grey.
    """

    def __init__(self, prob=0.5, center=(0.3, 0.7), scale=(0.5, 1.0)):
        """
        Args:
            prob (float): probability that an image becomes a mosaic.
            center (tuple[float]): range of the point, in shares of width and of height.
            scale (tuple[float]): range of the factors on the images.
        """
        self.prob = prob
        self.center = center
        self.scale = scale

    def __call__(self, sample, draw):
        if np.random.rand() >= self.prob:
            return sample
        image = sample["image"]
        height, width = image.shape[1:]
        x, y = (round(np.random.uniform(*self.center) * side) for side in (width, height))
        corners = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        first = np.random.randint(4)
        canvas, parts = torch.full_like(image, _GREY), []
        for number, corner in enumerate(corners):
            part = sample if number == first else draw()
            pixels, instances = _scaled(part, np.random.uniform(*self.scale))
            shift = _shift(corner, (x, y), pixels.shape[2], pixels.shape[1])
            window = _overlap(corner, shift, pixels.shape)
            _copy(canvas, pixels, window, shift)
            parts.append(_moved(instances, (height, width), window, shift))
        return {**sample, "image": canvas, "instances": Instances.cat(parts)}


class CopyPaste:
    """Objects of another image, pasted where they are in that one (Ghiasi et al., CVPR 2021).

    What they cover of this image's objects is taken out of the masks and boxes of these.
    """

    def __init__(self, prob=0.5, share=0.5):
        """
        Args:
            prob (float): probability that an image gets objects.
            share (float): probability with which each object of the other image is pasted.
        """
        self.prob = prob
        self.share = share

    def __call__(self, sample, draw):
        if np.random.rand() >= self.prob:
            return sample
        other = draw()
        chosen = np.random.rand(len(other["instances"])) < self.share
        size, pixels = tuple(sample["image"].shape[1:]), other["image"]
        window = _overlap((0, 0, size[1], size[0]), (0, 0), pixels.shape)
        pasted = _moved(other["instances"][torch.as_tensor(chosen)], size, window, (0, 0))
        pasted = pasted[pasted.visible > 0]
        cover = pasted.gt_masks.tensor.any(0)
        image = sample["image"].clone()
        inside = image[:, : window[3], : window[2]]
        inside[:] = torch.where(
            cover[: window[3], : window[2]], pixels[:, : window[3], : window[2]], inside
        )
        below = _covered(sample["instances"], cover)
        return {**sample, "image": image, "instances": Instances.cat([below, pasted])}


class MixUp:
    """Two images blended, with the objects of both (Zhang et al., "Bag of Freebies for Training
    Object Detection Neural Networks", 2019), whose losses here count alike.

    The image keeps its size: what reaches beyond it of the other one is cut off.
    """

    def __init__(self, prob=0.5, alpha=32.0):
        """
        Args:
            prob (float): probability that an image is blended.
            alpha (float): the share of this image is drawn from Beta(alpha, alpha).
        """
        self.prob = prob
        self.alpha = alpha

    def __call__(self, sample, draw):
        if np.random.rand() >= self.prob:
            return sample
        other, share = draw(), np.random.beta(self.alpha, self.alpha)
        image, pixels = sample["image"].clone(), other["image"]
        size = tuple(image.shape[1:])
        window = _overlap((0, 0, size[1], size[0]), (0, 0), pixels.shape)
        inside = image[:, : window[3], : window[2]]
        mixed = share * inside + (1 - share) * pixels[:, : window[3], : window[2]]
        inside[:] = mixed if image.is_floating_point() else mixed.round()
        instances = [sample["instances"], _moved(other["instances"], size, window, (0, 0))]
        return {**sample, "image": image, "instances": Instances.cat(instances)}


def _scaled(sample, scale):
    """Pixels and instances of a sample, scaled."""
    image, instances = sample["image"], sample["instances"]
    height, width = image.shape[1:]
    size = (max(round(scale * height), 1), max(round(scale * width), 1))
    if size == (height, width):
        return image, instances
    scaled = Instances(size)
    factors = torch.tensor([size[1] / width, size[0] / height]).repeat(2)
    scaled.gt_boxes = Boxes(instances.gt_boxes.tensor * factors)
    scaled.gt_classes, scaled.visible = instances.gt_classes, instances.visible
    if instances.has("gt_masks"):
        masks = instances.gt_masks.tensor.byte()
        masks = F.resize(masks, list(size), interpolation=InterpolationMode.NEAREST_EXACT)
        scaled.gt_masks = BitMasks(masks.bool())
    return F.resize(image, list(size), antialias=True), scaled


def _shift(corner, center, width, height):
    """(x, y) of a picture's upper left pixel: its own corner is at the centre of the mosaic if it
    is smaller than the corner of the mosaic, and it covers this one at random if it is larger."""
    shift = []
    for low, high, middle, side in (
        (corner[0], corner[2], center[0], width),
        (corner[1], corner[3], center[1], height),
    ):
        room = high - low - side
        if room < 0:
            shift.append(low - np.random.randint(-room + 1))
        else:
            shift.append(high - side if high == middle else low)
    return tuple(shift)


def _overlap(area, shift, shape):
    """Corners (x0, y0, x1, y1) of the part of an area that a picture of `shape` (C, H, W) covers
    when its upper left pixel is at `shift`."""
    x, y = shift
    return (
        max(area[0], x),
        max(area[1], y),
        min(area[2], x + shape[2]),
        min(area[3], y + shape[1]),
    )


def _copy(canvas, pixels, window, shift):
    x0, y0, x1, y1 = window
    x, y = shift
    canvas[:, y0:y1, x0:x1] = pixels[:, y0 - y : y1 - y, x0 - x : x1 - x]


def _moved(instances, size, window, shift):
    """Instances of an image of (height, width) `size`, moved by `shift` and cut off outside of
    `window`."""
    x0, y0, x1, y1 = window
    x, y = shift
    old = instances.gt_boxes.tensor + torch.tensor([x, y, x, y])
    low, high = torch.tensor([x0, y0]), torch.tensor([x1, y1])
    new = torch.cat([old[:, :2].clamp(low, high), old[:, 2:].clamp(low, high)], 1)
    moved = Instances(size)
    moved.gt_boxes, moved.gt_classes = Boxes(new), instances.gt_classes
    share = (new[:, 2:] - new[:, :2]).prod(1) / (old[:, 2:] - old[:, :2]).prod(1).clamp(min=1e-9)
    moved.visible = instances.visible * share
    if instances.has("gt_masks"):
        masks = torch.zeros(len(instances), *size, dtype=torch.bool)
        part = instances.gt_masks.tensor[:, y0 - y : y1 - y, x0 - x : x1 - x]
        masks[:, y0:y1, x0:x1] = part
        moved.gt_masks = BitMasks(masks)
        _tighten(moved, (share < 1 - 1e-3))
    return moved


def _tighten(instances, which):
    """Cut the boxes of some instances to their masks; those without a pixel are not visible."""
    bounds = instances.gt_masks.get_bounding_boxes().tensor
    boxes = instances.gt_boxes.tensor
    tight = torch.cat(
        [torch.maximum(boxes[:, :2], bounds[:, :2]), torch.minimum(boxes[:, 2:], bounds[:, 2:])], 1
    )
    instances.gt_boxes = Boxes(torch.where(which[:, None], tight, boxes))
    instances.visible = torch.where(instances.gt_masks.nonempty(), instances.visible, 0.0)


def _covered(instances, cover):
    """Instances of which the pixels `cover`, (H, W), are hidden."""
    masks = instances.gt_masks.tensor
    left = masks & ~cover
    before, after = masks.flatten(1).sum(1), left.flatten(1).sum(1)
    covered = Instances(instances.image_size)
    covered.gt_classes, covered.gt_masks = instances.gt_classes, BitMasks(left)
    covered.visible = instances.visible * after / before.clamp(min=1)
    # By as much as the masks shrink: the boxes may be finer than pixels.
    moved = covered.gt_masks.get_bounding_boxes().tensor
    moved = moved - instances.gt_masks.get_bounding_boxes().tensor
    moved = torch.where((after > 0)[:, None], moved, 0.0)
    covered.gt_boxes = Boxes(instances.gt_boxes.tensor + moved)
    return covered

"""Detection in large images: in overlapping slices, each as large for the model as any image.

Dimension letters: D detections of all slices; C channels; H, W size of the image.
"""

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils
from detectron2.data.transforms import AugmentationList
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError
from ..image_files import resize_for_model
from .windows import window_slices

__all__ = [
    "SlicedInference",
    "check_slices",
    "merge_slices",
    "with_slices",
]

_BORDER = 2.0  # pixels: a box that ends nearer to where its slice was cut is cut itself
# Share of a slice's side: a box that ends nearer to there may be a part, if not cut to the pixel.
_MARGIN = 0.1


def with_slices(cfg, model):
    """Wrap a detector (nn.Module) in :class:`SlicedInference` if TEST.SLICES asks for it."""
    return SlicedInference(cfg, model) if cfg.TEST.SLICES.ENABLED else model


def check_slices(cfg):
    """Raise ConfigError if TEST.SLICES does not go together with the rest of a config."""
    if not cfg.TEST.SLICES.ENABLED:
        return
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        raise ConfigError(
            "TEST.SLICES is for detectors; semantic segmentation has windows in "
            "TEST.SEM_SEG.CROP_SIZE."
        )
    for key, is_on in (
        ("TEST.AUG.ENABLED", cfg.TEST.AUG.ENABLED),
        ("MODEL.KEYPOINT_ON", cfg.MODEL.KEYPOINT_ON),
        ("MODEL.LOAD_PROPOSALS", cfg.MODEL.LOAD_PROPOSALS),
    ):
        if is_on:
            raise ConfigError(f"TEST.SLICES does not go together with {key}; set one to False.")


class SlicedInference(nn.Module):
    """A detector that looks at slices of its images, called like the detector itself.

    Its images have their own size. One that fits into a slice is given to the detector as a whole,
    with the result that it has without this wrapper.
    """

    @configurable
    def __init__(
        self,
        model,
        *,
        augmentations=(),
        size=(640, 640),
        overlap=0.2,
        whole=True,
        merge_thresh=0.5,
        max_detections=1000,
        batch_size=4,
    ):
        """
        Args:
            model (nn.Module): in evaluation mode; also an exported one.
            augmentations (list[Augmentation]): what a loader does to an image for it: the resize.
            size (tuple[int, int]): height and width of slices, in pixels of the image.
            overlap (float): share of that which neighbours have in common, at least.
            whole (bool): also look at the whole image, for objects larger than a slice.
            merge_thresh (float): see :func:`merge_slices`.
            max_detections (int): kept per image, of all slices together.
            batch_size (int): slices per forward pass.
        """
        super().__init__()
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.train(self.model.training)
        self.augmentations = AugmentationList(augmentations)
        self.size = tuple(size)
        self.stride = tuple(max(round(side * (1 - overlap)), 1) for side in size)
        self.whole = whole
        self.merge_thresh = merge_thresh
        self.max_detections = max_detections
        self.batch_size = batch_size

    @classmethod
    def from_config(cls, cfg, model):
        slices = cfg.TEST.SLICES
        return {
            "model": model,
            "augmentations": detection_utils.build_augmentation(cfg, is_train=False),
            "size": tuple(slices.SIZE),
            "overlap": slices.OVERLAP,
            "whole": slices.WHOLE,
            "merge_thresh": slices.MERGE_THRESH,
            "max_detections": slices.MAX_DETECTIONS,
            "batch_size": slices.BATCH_SIZE,
        }

    def forward(self, batched_inputs):
        """
        Args:
            batched_inputs (list[dict]): per image "image", (C, H, W), of the size of its file, in
                the model's channel order, 0 to 255.

        Returns:
            list[dict]: per image ``{"instances": Instances}``, in pixels of the image.

        Raises:
            ConfigError: an image was resized already.
            ImageError: an image, or a slice of it, is too thin to be resized.
        """
        return [{"instances": self._one_image(x)} for x in batched_inputs]

    def _one_image(self, dataset_dict):
        image = dataset_dict["image"]
        size = tuple(image.shape[1:])
        target = dataset_dict.get("height", size[0]), dataset_dict.get("width", size[1])
        if target != size:
            raise ConfigError(
                f"TEST.SLICES needs images as they are; one of {target[1]} x {target[0]} pixels "
                f"was resized to {size[1]} x {size[0]}. Build loader and model from one config."
            )
        windows = window_slices(size, self.size, self.stride)
        if len(windows) == 1:
            return self._detect(image, windows)[0]
        found = self._detect(image, windows)
        if self.whole:
            windows = [*windows, (slice(0, size[0]), slice(0, size[1]))]
            found += self._detect(image, windows[-1:])
        found = [x.to("cpu") for x in found]
        return merge_slices(found, windows, size, self.merge_thresh, self.max_detections)

    def _detect(self, image, windows):
        """Detections (list[Instances]) in windows of one size, in pixels of each window."""
        found = []
        for start in range(0, len(windows), self.batch_size):
            inputs = [self._resized(image[:, y, x]) for y, x in windows[start:][: self.batch_size]]
            found += [output["instances"] for output in self.model(inputs)]
        return found

    def _resized(self, window):
        pixels = np.ascontiguousarray(window.permute(1, 2, 0).cpu().numpy())
        return resize_for_model(pixels, self.augmentations)


def merge_slices(found, windows, size, merge_thresh=0.5, max_detections=1000):
    """Detections of one image from those in its windows.

    A box that its window cuts is left out if another window, other than the whole image, has all of
    it and what is beyond the cut: there, more of the object is seen, if there is one.

    Best first, a detection then forms a group with those of its class from other windows of which
    the intersection, relative to the smaller of the two boxes, is above `merge_thresh`: of an
    object that a window cuts, one box is often within the other. Two boxes of which neither ends
    within a tenth of its window from a cut are no parts, as a child in front of a grown-up is none:
    for them, it is relative to their union. If the best box of a group ends there, the group also
    takes the other parts of its best box that does not. It becomes one detection, with the best
    score and the box of the best one that no window cuts; if all are cut, with the box around them.
    Of one window, at most one detection that is no part and all that are parts join a group.

    Args:
        found (list[Instances]): on the CPU, in pixels of each window: `pred_boxes`, `scores`,
            `pred_classes` and perhaps `pred_masks`, (D, h, w), bool.
        windows (list[tuple[slice, slice]]): rows and columns of each.
        size (tuple[int, int]): height and width of the image.
        merge_thresh (float): intersection over the smaller area, or the union.
        max_detections (int): kept, the best.

    Returns:
        Instances: best first, with the same fields.
    """
    boxes, is_cut, is_part = [], [], []
    for instances, (rows, columns) in zip(found, windows, strict=True):
        corner = torch.tensor([columns.start, rows.start, columns.start, rows.start])
        boxes.append(instances.pred_boxes.tensor + corner)
        is_cut.append(_cut(boxes[-1], rows, columns, size))
        is_part.append(_cut(boxes[-1], rows, columns, size, _MARGIN))
    boxes, is_cut, is_part = torch.cat(boxes), torch.cat(is_cut), torch.cat(is_part).numpy()
    seen_better = is_cut & _whole_in_any(boxes, windows, size)
    is_cut = is_cut.numpy()
    scores = torch.cat([x.scores for x in found])
    classes = torch.cat([x.pred_classes for x in found])
    window = np.repeat(np.arange(len(found)), [len(x) for x in found])
    order = scores.argsort(descending=True, stable=True)
    order = order[~seen_better[order]].numpy()
    groups = _groups(boxes.double().numpy(), classes.numpy(), window, is_part, order, merge_thresh)
    groups = groups[:max_detections]
    merged = Instances(size)
    firsts = torch.tensor([group[0] for group in groups], dtype=torch.int64)
    shown = [_shown(group, is_cut) for group in groups]
    corners = [_around(boxes[members]) for members in shown]
    merged.pred_boxes = Boxes(torch.stack(corners) if corners else boxes[:0])
    merged.scores, merged.pred_classes = scores[firsts], classes[firsts]
    if found[0].has("pred_masks"):
        merged.pred_masks = _masks(found, windows, window, shown, size)
    return merged


def _cut(boxes, rows, columns, size, margin=0.0):
    """Which boxes (D, 4) end where their window does and the image goes on; or nearer to there than
    `margin`, a share of the window's side."""
    x0, y0, x1, y1 = boxes.unbind(1)
    dx, dy = (max(_BORDER, margin * (side.stop - side.start)) for side in (columns, rows))
    return (
        ((x0 < columns.start + dx) & (columns.start > 0))
        | ((y0 < rows.start + dy) & (rows.start > 0))
        | ((x1 > columns.stop - dx) & (columns.stop < size[1]))
        | ((y1 > rows.stop - dy) & (rows.stop < size[0]))
    )


def _whole_in_any(boxes, windows, size):
    """Which boxes (D, 4) lie in a window that does not cut them."""
    inside = torch.zeros(len(boxes), dtype=torch.bool)
    for rows, columns in windows:
        if (rows.stop - rows.start, columns.stop - columns.start) == size:
            continue  # the whole image, where small objects are not seen better
        low = torch.tensor([columns.start, rows.start])
        high = torch.tensor([columns.stop, rows.stop])
        within = ((boxes[:, :2] >= low) & (boxes[:, 2:] <= high)).all(1)
        inside |= within & ~_cut(boxes, rows, columns, size)
    return inside


def _groups(boxes, classes, window, is_part, order, thresh):
    """Groups (list[list[int]]) of detections, each and all best first. NumPy: for so many small
    steps it is faster."""
    area = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)

    def compare(one, others):
        """Which others match one box, and their IoU with it."""
        low = np.maximum(boxes[one, :2], boxes[others, :2])
        high = np.minimum(boxes[one, 2:], boxes[others, 2:])
        common = (high - low).clip(0).prod(1)
        smaller = np.minimum(area[one], area[others])
        union = area[one] + area[others] - common
        base = np.where(is_part[one] | is_part[others], smaller, union).clip(1e-9)
        matches = (classes[others] == classes[one]) & (common / base > thresh)
        return matches, common / union.clip(1e-9)

    left, groups = order, []
    while len(left):
        best, others = left[0], left[1:]
        elsewhere = window[others] != window[best]
        matches, iou = compare(best, others)
        joins = elsewhere & matches
        # In one window, those that are no parts are several objects: the most similar one joins.
        whole = np.flatnonzero(joins & ~is_part[others])
        whole = whole[np.argsort(-iou[whole], kind="stable")]
        joins[np.delete(whole, np.unique(window[others[whole]], return_index=True)[1])] = False
        if is_part[best]:  # other parts of the object need not overlap with this one
            for seen_whole in others[joins & ~is_part[others]][:1]:
                joins |= elsewhere & is_part[others] & compare(seen_whole, others)[0]
        groups.append([int(best), *others[joins].tolist()])
        left = others[~joins]
    return groups


def _shown(group, is_cut):
    """Those of a group that make its box: the best one that is not cut, or all."""
    whole = [i for i in group if not is_cut[i]]
    return whole[:1] or group


def _around(boxes):
    return torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])


def _masks(found, windows, window, shown, size):
    first = np.concatenate([[0], np.cumsum([len(x) for x in found])])
    masks = torch.zeros(len(shown), *size, dtype=torch.bool)
    for mask, members in zip(masks, shown, strict=True):
        for i in members:
            rows, columns = windows[window[i]]
            mask[rows, columns] |= found[window[i]].pred_masks[i - first[window[i]]]
    return masks

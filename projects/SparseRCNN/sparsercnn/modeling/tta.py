"""Test-time augmentation: detections of an image at several sizes and flips, merged."""

import copy

import numpy as np
import torch
from detectron2.config import configurable, get_cfg
from detectron2.data.transforms import HFlipTransform
from detectron2.layers import batched_nms
from detectron2.modeling import DatasetMapperTTA
from detectron2.structures import Boxes, Instances, ROIMasks
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import box_iou

from ..config import add_sparsercnn_config, detections_per_image
from ..errors import ConfigError
from ..image_files import load_image
from .masks import crop_masks

__all__ = ["SparseRCNNWithTTA", "augmentation_sizes", "check_scale_ranges", "soft_vote"]

_VOTE_THRESH = 0.65  # IoU above which detections of one class are merged
_MIN_RESIDUAL_SCORE = 0.05


class SparseRCNNWithTTA(nn.Module):
    """A detector with test-time augmentation, called like the detector itself.

    Masks are merged as boxes are: by soft voting to their mean, with the scores as weights; by NMS,
    the best one's is kept.
    """

    @configurable
    def __init__(
        self,
        model,
        *,
        tta_mapper,
        scale_ranges=None,
        vote=True,
        nms_thresh=0.5,
        max_detections=100,
        batch_size=3,
    ):
        """
        Args:
            model (SparseRCNN): in evaluation mode.
            tta_mapper (callable): maps a dataset dict to its augmented versions, each with its
                `transforms`; flips of one size are adjacent.
            scale_ranges (list[tuple[float, float]]): for each size, the range of sqrt(area), in
                pixels of the resized image, of the boxes to keep; None: all boxes are kept.
            vote (bool): merge by :func:`soft_vote`; False: by class-wise NMS.
            nms_thresh (float): IoU threshold of that NMS.
            max_detections (int): detections kept per image after merging.
            batch_size (int): augmented images per forward pass.
        """
        super().__init__()
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.tta_mapper = tta_mapper
        self.scale_ranges = scale_ranges
        self.vote = vote
        self.nms_thresh = nms_thresh
        self.max_detections = max_detections
        self.batch_size = batch_size

    @classmethod
    def from_config(cls, cfg, model):
        check_scale_ranges(cfg)
        aug = augmentation_sizes(cfg)
        return {
            "model": model,
            "tta_mapper": DatasetMapperTTA(
                min_sizes=aug.MIN_SIZES, max_size=aug.MAX_SIZE, flip=aug.FLIP
            ),
            "scale_ranges": aug.SCALE_RANGES if aug.SCALE_FILTER else None,
            "vote": aug.CVPODS_TTA,
            "nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "max_detections": detections_per_image(cfg),
        }

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """As :meth:`SparseRCNN.forward` in evaluation; a missing `image` is read from its file."""
        return [{"instances": self._one_image(self._read(x))} for x in batched_inputs]

    def _read(self, dataset_dict):
        dataset_dict = copy.copy(dataset_dict)
        if "image" not in dataset_dict:
            image = load_image(dataset_dict["file_name"], self.model.input_format)
            dataset_dict["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        dataset_dict.setdefault("height", dataset_dict["image"].shape[1])
        dataset_dict.setdefault("width", dataset_dict["image"].shape[2])
        return dataset_dict

    def _one_image(self, dataset_dict):
        augmented = self.tta_mapper(dataset_dict)
        transforms = [x.pop("transforms") for x in augmented]
        outputs = []
        for start in range(0, len(augmented), self.batch_size):
            outputs += self.model(augmented[start : start + self.batch_size], do_postprocess=False)
        outputs = self._filter_by_scale(outputs)

        boxes, masks = [], []
        for output, transform in zip(outputs, transforms, strict=True):
            tensor = output.pred_boxes.tensor
            original = transform.inverse().apply_box(tensor.cpu().numpy())
            boxes.append(torch.as_tensor(original, dtype=tensor.dtype, device=tensor.device))
            if output.has("pred_masks"):
                flips = sum(isinstance(x, HFlipTransform) for x in transform.transforms)
                of_output = output.pred_masks[:, 0]
                masks.append(of_output.flip(2) if flips % 2 else of_output)
        image_size = (dataset_dict["height"], dataset_dict["width"])
        return self._merge(
            torch.cat(boxes),
            torch.cat([output.scores for output in outputs]),
            torch.cat([output.pred_classes for output in outputs]),
            torch.cat(masks) if masks else None,
            image_size,
        )

    def _filter_by_scale(self, outputs):
        if self.scale_ranges is None:
            return outputs
        versions_per_size = len(outputs) // len(self.scale_ranges)
        filtered = []
        for i, output in enumerate(outputs):
            smallest, largest = self.scale_ranges[i // versions_per_size]
            area = output.pred_boxes.area()
            filtered.append(output[(area > smallest**2) & (area < largest**2)])
        return filtered

    def _merge(self, boxes, scores, classes, masks, image_size):
        if self.vote:
            boxes, scores, classes, *voted = soft_vote(boxes, scores, classes, masks=masks)
            masks = voted[0] if voted else None
            kept = slice(self.max_detections)
        else:
            kept = batched_nms(boxes, scores, classes, self.nms_thresh)[: self.max_detections]
        result = Instances(image_size)
        result.pred_boxes = Boxes(boxes[kept])
        result.pred_boxes.clip(image_size)
        result.scores = scores[kept]
        result.pred_classes = classes[kept]
        if masks is not None:
            over_boxes = ROIMasks(masks[kept])
            result.pred_masks = over_boxes.to_bitmasks(result.pred_boxes, *image_size).tensor
        return result


def augmentation_sizes(cfg):
    """TEST.AUG for the size at which the model is tested.

    The default sizes are the original's, for models tested at 800 pixels: where MIN_SIZES is not
    set, sizes, MAX_SIZE and SCALE_RANGES are scaled by INPUT.MIN_SIZE_TEST / 800.

    Args:
        cfg (CfgNode): the whole config; not modified.

    Returns:
        CfgNode: a copy of TEST.AUG.
    """
    defaults = get_cfg()
    add_sparsercnn_config(defaults)
    aug, default = cfg.TEST.AUG.clone(), defaults.TEST.AUG
    size = cfg.INPUT.MIN_SIZE_TEST
    if size == 0 or tuple(aug.MIN_SIZES) != tuple(default.MIN_SIZES):
        return aug
    factor = size / defaults.INPUT.MIN_SIZE_TEST
    aug.defrost()
    aug.MIN_SIZES = tuple(round(x * factor) for x in aug.MIN_SIZES)
    aug.MAX_SIZE = round(aug.MAX_SIZE * factor)
    aug.SCALE_RANGES = tuple([low * factor, high * factor] for low, high in aug.SCALE_RANGES)
    return aug


def soft_vote(
    boxes, scores, classes, iou_thresh=_VOTE_THRESH, min_score=_MIN_RESIDUAL_SCORE, masks=None
):
    """Merge overlapping detections into their mean, and keep the others at a reduced score.

    The best detection and those of its class that overlap it form a group. The group becomes one
    detection, with the score-weighted mean box and the best score. Every other member is also kept
    unchanged, with score s (1 - IoU), if that is at least `min_score`. The same is repeated for the
    remaining detections. This is the "soft vote" of cvpods, used for the published results with
    test-time augmentation.

    Args:
        boxes: (D, 4), absolute xyxy.
        scores: (D,).
        classes: (D,).
        iou_thresh (float): a detection with a higher IoU with the best one is in its group.
        min_score (float): lowest score of a member that is kept beside its group.
        masks: (D, m, m), probabilities over the boxes; None: there are none. That of a group is the
            score-weighted mean of its members', over the mean box.

    Returns:
        tuple: boxes, scores, classes and, if they are given, masks of the merged detections, best
        first.
    """
    if len(boxes) == 0:
        return (boxes, scores, classes) if masks is None else (boxes, scores, classes, masks)
    # NMS finds the best of each group; others belong to the first group whose best they overlap.
    best = batched_nms(boxes, scores, classes, iou_thresh)
    iou = box_iou(boxes, boxes[best])
    iou = torch.where(classes[:, None] == classes[best][None], iou, 0.0)
    overlaps = iou > iou_thresh
    overlaps[best, torch.arange(len(best), device=best.device)] = True
    # NMS may shift boxes by class: of one at the threshold, our IoUs with all best may be below it.
    group = torch.where(overlaps.any(dim=1), overlaps.int().argmax(dim=1), iou.argmax(dim=1))

    weights = scores.clamp(min=torch.finfo(scores.dtype).tiny)  # of a group of zeros, too
    total = torch.zeros_like(scores[best]).index_add(0, group, weights)
    mean = torch.zeros_like(boxes[best]).index_add(0, group, boxes * weights[:, None])
    mean = mean / total[:, None]

    residual = scores * (1 - iou.gather(1, group[:, None]).squeeze(1))
    residual[best] = 0
    odd = residual >= min_score
    merged = [mean, scores[best], classes[best]]
    if masks is not None:
        merged.append(_sum_masks(masks, boxes, weights, mean, group) / total[:, None, None])
    rest = [boxes, residual, classes] + ([] if masks is None else [masks])
    merged = [torch.cat([x, y[odd]]) for x, y in zip(merged, rest, strict=True)]
    order = merged[1].argsort(descending=True)
    return tuple(x[order] for x in merged)


def _sum_masks(masks, boxes, weights, means, group):
    """(G, m, m), sums of the masks (D, m, m) times their weights, over the groups' boxes `means`
    (G, 4)."""
    own = torch.arange(len(masks), device=masks.device)
    moved = crop_masks(masks, boxes, means[group], own, masks.shape[-1])
    return torch.zeros_like(masks[: len(means)]).index_add(0, group, moved * weights[:, None, None])


def check_scale_ranges(cfg):
    """Raise ConfigError if TEST.AUG.SCALE_RANGES has not a range for each size."""
    aug = cfg.TEST.AUG
    if aug.SCALE_FILTER and len(aug.SCALE_RANGES) != len(aug.MIN_SIZES):
        raise ConfigError(
            f"TEST.AUG.SCALE_RANGES has {len(aug.SCALE_RANGES)} entries for the "
            f"{len(aug.MIN_SIZES)} sizes of TEST.AUG.MIN_SIZES; give one per size, or set "
            "TEST.AUG.SCALE_FILTER False."
        )

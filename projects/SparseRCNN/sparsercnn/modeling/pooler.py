"""RoIAlign over a feature pyramid, without synchronising with the device."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import nn
from torchvision.ops import roi_align

from ..errors import ConfigError

__all__ = ["PyramidRoIAlign"]

# Boxes of this size in pixels are pooled from p4 (Eqn. (1) of the FPN paper).
_CANONICAL_BOX_SIZE = 224
_CANONICAL_LEVEL = 4
# xyxy in pixels, so far outside any map that RoIAlign returns zeros.
_OFF_THE_MAP = (-1e6, -1e6, -1e6 + 1, -1e6 + 1)


class PyramidRoIAlign(nn.Module):
    """Pool each box from the pyramid level that fits its size.

    Computes the values of :class:`detectron2.modeling.poolers.ROIPooler`. That one selects the
    boxes of each level by index, which waits for the device once per level, and rounds boxes to
    the dtype of the features, which is an error of several pixels in bfloat16.

    On the CPU, torchvision's kernel visits the channels of a pixel one by one. RoIAlign is a
    weighted sum of pixels, so PyTorch's embedding bag, which adds whole vectors, does it instead:
    a table of the vectors of all pixels, and for each bin the rows of its samples' neighbours.
    """

    @configurable
    def __init__(self, *, output_size, strides, sampling_ratio=2, aligned=True):
        """
        Args:
            output_size (int): r, the side of a pooled map.
            strides (list[int]): strides of the levels, finest first, each twice the previous one.
            sampling_ratio (int): samples per bin and axis; 0: as many as the bin has pixels.
            aligned (bool): RoIAlignV2, with the half-pixel offset corrected.
        """
        super().__init__()
        levels = [stride.bit_length() - 1 for stride in strides]
        if [2**level for level in levels] != list(strides):
            raise ConfigError(f"Strides of the pyramid must be powers of two, got {list(strides)}.")
        if levels != list(range(levels[0], levels[-1] + 1)):
            raise ConfigError(
                f"Strides of the pyramid must double, got {list(strides)}: in "
                "MODEL.ROI_HEADS.IN_FEATURES, name maps that follow each other, finest first."
            )
        self.output_size = output_size
        self.scales = [1.0 / stride for stride in strides]
        self.min_level, self.max_level = levels[0], levels[-1]
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        # A buffer, since creating it in the forward pass would wait for the device.
        off_the_map = torch.tensor((0.0, *_OFF_THE_MAP))
        self.register_buffer("off_the_map", off_the_map, persistent=False)

    @classmethod
    def from_config(cls, cfg, input_shape):
        pooler_type = cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE
        if pooler_type not in ("ROIAlign", "ROIAlignV2"):
            raise ConfigError(
                f"MODEL.ROI_BOX_HEAD.POOLER_TYPE must be ROIAlignV2 or ROIAlign, got {pooler_type}."
            )
        return {
            "output_size": cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION,
            "strides": [input_shape[name].stride for name in cfg.MODEL.ROI_HEADS.IN_FEATURES],
            "sampling_ratio": cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO,
            "aligned": pooler_type == "ROIAlignV2",
        }

    def prepare(self, features):
        """Bring a pyramid into the form that :meth:`forward` reads, once for all stages.

        Args:
            features (list[Tensor]): the levels, finest first, each (B, C, H_l, W_l). What this
                method has returned stays as it is: one form serves poolers of any output size.
        """
        if isinstance(features, (_Maps, _PixelTable)):
            return features
        if features[0].device.type == "cpu" and self.sampling_ratio > 0:
            return _PixelTable.of(features)
        # The kernel needs the boxes' dtype; rounding the boxes to the features' would move them.
        return _Maps([feature.float().contiguous() for feature in features], features[0].dtype)

    def forward(self, pyramid, boxes):
        """
        Args:
            pyramid: what :meth:`prepare` returned, or the levels themselves.
            boxes: (B, N, 4), absolute xyxy in pixels of the network's input.

        Returns:
            Tensor: (B * N, C, r, r), ordered by image, in the dtype of the levels. Zeros for a box
            that is not finite, or has one negative side, as learned proposals may.
        """
        B, N, _ = boxes.shape
        image_of_box = torch.arange(B, device=boxes.device).repeat_interleave(N)
        return self.pool(pyramid, boxes.flatten(0, 1), image_of_box)

    def pool(self, pyramid, boxes, image_of_box):
        """As :meth:`forward`, of any number of boxes per image.

        Args:
            pyramid: as there.
            boxes: (R, 4), absolute xyxy in pixels of the network's input.
            image_of_box: (R,), int64, in [0, B).

        Returns:
            Tensor: (R, C, r, r).
        """
        if isinstance(pyramid, (list, tuple)):
            pyramid = self.prepare(pyramid)
        boxes = boxes.detach().float()
        level_of_box = self.levels_of(boxes)
        pool = self._pool_table if isinstance(pyramid, _PixelTable) else self._pool_maps
        return pool(pyramid, boxes, level_of_box, image_of_box).to(pyramid.dtype)

    def levels_of(self, boxes):
        """(R,), the index of the level for each of `boxes` (R, 4), by its size; no level's for one
        that is not finite, or has a negative area."""
        return assign_boxes_to_levels(
            [Boxes(boxes)], self.min_level, self.max_level, _CANONICAL_BOX_SIZE, _CANONICAL_LEVEL
        )

    def _pool_maps(self, pyramid, boxes, level_of_box, image_of_box):
        """Pool all boxes from every level, with boxes of other levels moved off the map.

        The kernel skips samples off the map, so each box costs about as much as on one level.
        """
        rois = torch.cat([image_of_box[:, None].to(boxes.dtype), boxes], dim=1)
        pooled = 0
        for i, level in enumerate(pyramid.levels):
            on_this_level = (level_of_box == i)[:, None]
            rois_here = torch.where(on_this_level, rois, self.off_the_map)
            pooled = pooled + roi_align(
                level,
                rois_here,
                output_size=self.output_size,
                spatial_scale=self.scales[i],
                sampling_ratio=self.sampling_ratio,
                aligned=self.aligned,
            )
        return pooled

    def _pool_table(self, table, boxes, level_of_box, image_of_box):
        """Pool all boxes at once: bins are bags of 4 s^2 pixels, s the sampling ratio.

        The result is a view of (B * N, r, r, C): as tokens it needs no transposition.
        """
        usable = (level_of_box >= 0) & (level_of_box < len(self.scales)) & boxes.isfinite().all(1)
        level = torch.where(usable, level_of_box, 0)
        size = table.sizes[level]  # (R, 2), width and height of the map
        pixels, weights = self._neighbours(boxes, boxes.new_tensor(self.scales)[level], size)
        weights = torch.where(usable[:, None, None, None], weights, 0.0)
        (x, y), (weight_x, weight_y) = pixels.unbind(1), weights.unbind(1)  # each (R, r, 2 s)
        width, height = size.unbind(1)
        row = table.starts[level] + image_of_box * width * height  # of the map's first pixel
        row = row[:, None, None] + y * width[:, None, None]
        rows = row[:, :, None, :, None] + x[:, None, :, None, :]  # (R, r, r, 2 s, 2 s)
        weights = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
        pooled = F.embedding_bag(
            rows.flatten(3).flatten(0, 2).int(),  # kept for the backward pass
            table.vectors,
            per_sample_weights=weights.flatten(3).flatten(0, 2),
            mode="sum",
        )
        r = self.output_size
        return pooled.view(-1, r, r, pooled.shape[1]).permute(0, 3, 1, 2)

    def _neighbours(self, boxes, scale, size):
        """Per axis, the two pixels that each sample lies between, and their weights.

        Args:
            boxes: (R, 4), absolute xyxy.
            scale: (R,), of each box's level.
            size: (R, 2), width and height of its map.

        Returns:
            tuple[Tensor, Tensor]: (R, 2, r, 2 s) each, for x and for y.
        """
        r, s = self.output_size, self.sampling_ratio
        corners = boxes.view(-1, 2, 2) * scale[:, None, None] - (0.5 if self.aligned else 0.0)
        start, extent = corners[:, 0], corners[:, 1] - corners[:, 0]
        if not self.aligned:
            extent = extent.clamp(min=1.0)
        # In the order of torchvision's kernel, to round as it does.
        bin_size = (extent / r)[..., None, None]
        bins = start[..., None, None] + torch.arange(r, device=boxes.device)[:, None] * bin_size
        within = (torch.arange(s, device=boxes.device) + 0.5) * bin_size / s
        samples = (bins + within).flatten(2)  # (R, 2, r s)
        size = size[..., None]
        # Up to a pixel beyond the border, a sample reads the border; further out, zero.
        inside = (samples >= -1) & (samples <= size)
        samples = torch.where(inside, samples, 0.0).clamp(min=0)
        low = samples.long().minimum(size - 1)
        high = (low + 1).minimum(size - 1)
        fraction = samples - low
        share = inside / s  # of the mean over the bin's samples
        pixels = torch.stack([low, high], dim=-1)
        weights = torch.stack([(1 - fraction) * share, fraction * share], dim=-1)
        return pixels.unflatten(2, (r, s)).flatten(3), weights.unflatten(2, (r, s)).flatten(3)


@dataclass
class _Maps:
    """A pyramid as torchvision's kernel reads it."""

    levels: list  # (B, C, H_l, W_l), contiguous, float32
    dtype: torch.dtype  # of the model's maps


@dataclass
class _PixelTable:
    """A pyramid as a table of pixels, ordered by level, image, row and column."""

    vectors: torch.Tensor  # (sum of B H_l W_l, C), float32
    starts: torch.Tensor  # (levels,), first row of each level
    sizes: torch.Tensor  # (levels, 2), W_l and H_l
    dtype: torch.dtype  # of the model's maps

    @classmethod
    def of(cls, features):
        pixels = [feature.permute(0, 2, 3, 1).flatten(0, 2) for feature in features]
        counts = torch.tensor([len(x) for x in pixels])
        return cls(
            vectors=torch.cat(pixels).float(),
            starts=counts.cumsum(0) - counts,
            sizes=torch.tensor([feature.shape[:1:-1] for feature in features]),
            dtype=features[0].dtype,
        )

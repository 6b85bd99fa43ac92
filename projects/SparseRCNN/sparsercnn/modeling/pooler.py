"""RoIAlign over a feature pyramid, without synchronising with the device."""

import torch
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
            raise ConfigError(f"Strides of the pyramid must double, got {list(strides)}.")
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

    def forward(self, features, boxes):
        """
        Args:
            features (list[Tensor]): the levels, finest first, each (B, C, H_l, W_l).
            boxes: (B, N, 4), absolute xyxy in pixels of the network's input.

        Returns:
            Tensor: (B * N, C, r, r), ordered by image.
        """
        B, N, _ = boxes.shape
        boxes = boxes.detach().float().flatten(0, 1)
        level_of_box = assign_boxes_to_levels(
            [Boxes(boxes)], self.min_level, self.max_level, _CANONICAL_BOX_SIZE, _CANONICAL_LEVEL
        )
        image_index = torch.arange(B, device=boxes.device).repeat_interleave(N)
        rois = torch.cat([image_index[:, None].to(boxes.dtype), boxes], dim=1)
        if boxes.device.type == "cpu":
            return self._pool_by_index(features, rois, level_of_box)
        return self._pool_all(features, rois, level_of_box)

    def _pool_by_index(self, features, rois, level_of_box):
        """Pool only the boxes of a level from it; on the CPU, indexing costs no synchronisation."""
        indices = [torch.nonzero(level_of_box == i).squeeze(1) for i in range(len(features))]
        pooled = torch.cat(
            [self._roi_align(i, features[i], rois[index]) for i, index in enumerate(indices)]
        )
        # A non-finite box is on no level: it gets zeros, and the loss check reports it.
        order = torch.cat(indices)
        result = pooled.new_zeros(len(rois), *pooled.shape[1:])
        return result.index_copy(0, order, pooled)

    def _pool_all(self, features, rois, level_of_box):
        """Pool all boxes from every level, with boxes of other levels moved off the map.

        The kernel skips samples off the map, so each box costs about as much as on one level.
        """
        pooled = 0
        for i, feature in enumerate(features):
            on_this_level = (level_of_box == i)[:, None]
            rois_here = torch.where(on_this_level, rois, self.off_the_map)
            pooled = pooled + self._roi_align(i, feature, rois_here)
        return pooled

    def _roi_align(self, level, feature, rois):
        # The kernel needs one dtype for both; rounding the boxes to the features' would move them.
        pooled = roi_align(
            feature.float(),
            rois,
            output_size=self.output_size,
            spatial_scale=self.scales[level],
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )
        return pooled.to(feature.dtype)

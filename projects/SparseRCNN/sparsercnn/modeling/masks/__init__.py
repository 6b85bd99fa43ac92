"""Masks: heads for the stages of Sparse R-CNN, and the RoI heads of a cascade.

A mask head of Sparse R-CNN is a module ``mask_head(queries, roi_features, classes) -> logits``:

* queries: (R, C), proposal features after self-attention and LayerNorm, as the interaction of the
  same stage gets them.
* roi_features: (R, C, r, r), pooled from the boxes that the stage has refined.
* classes: (R,), int64, in [0, K).
* logits: (R, m, m), of the mask of that class over the box, before the sigmoid.
"""

from .branch import MaskBranch, dice_loss
from .build import MASK_HEAD_REGISTRY, build_mask_head
from .cascade import CascadeMaskROIHeads
from .cropping import ObjectMasks, crop_masks
from .dynamic import DynamicMaskHead

__all__ = [
    "MASK_HEAD_REGISTRY",
    "CascadeMaskROIHeads",
    "DynamicMaskHead",
    "MaskBranch",
    "ObjectMasks",
    "build_mask_head",
    "crop_masks",
    "dice_loss",
]

"""DANet, and inference for semantic segmentation."""

from .danet import DANetHead
from .danet_attention import (
    DANET_ATTENTION_REGISTRY,
    ChannelAttention,
    PositionAttention,
    build_danet_attention,
)
from .sem_seg_inference import SemSegInference, with_sem_seg_inference

__all__ = [
    "DANET_ATTENTION_REGISTRY",
    "ChannelAttention",
    "DANetHead",
    "PositionAttention",
    "SemSegInference",
    "build_danet_attention",
    "with_sem_seg_inference",
]

"""Feature pyramids with attention between levels."""

from .attention_fpn import AGGREGATIONS, MSCA, MSSA, build_resnet_attention_fpn_backbone

__all__ = ["AGGREGATIONS", "MSCA", "MSSA", "build_resnet_attention_fpn_backbone"]

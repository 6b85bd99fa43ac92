"""Feature pyramids: with attention between levels, and of a plain backbone's single map."""

from .attention_fpn import (
    AGGREGATIONS,
    MSCA,
    MSSA,
    build_resnet_attention_fpn_backbone,
    build_timm_fpn_backbone,
)
from .simple_pyramid import SimpleFeaturePyramid, build_vit_backbone

__all__ = [
    "AGGREGATIONS",
    "MSCA",
    "MSSA",
    "SimpleFeaturePyramid",
    "build_resnet_attention_fpn_backbone",
    "build_timm_fpn_backbone",
    "build_vit_backbone",
]

"""Backbones in addition to detectron2's."""

from .dilated_resnet import build_dilated_resnet_backbone
from .res5_attention import add_res5_attention
from .timm_backbone import TimmBackbone, build_timm_backbone
from .vit import ViT

__all__ = [
    "TimmBackbone",
    "ViT",
    "add_res5_attention",
    "build_dilated_resnet_backbone",
    "build_timm_backbone",
]

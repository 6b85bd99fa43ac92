"""Backbones in addition to detectron2's."""

from .dilated_resnet import build_dilated_resnet_backbone
from .res5_attention import add_res5_attention

__all__ = ["add_res5_attention", "build_dilated_resnet_backbone"]

"""What makes maps of an image, beside detectron2's own."""

from .dilated_resnet import build_dilated_resnet_backbone
from .res5_attention import add_res5_attention

__all__ = ["add_res5_attention", "build_dilated_resnet_backbone"]

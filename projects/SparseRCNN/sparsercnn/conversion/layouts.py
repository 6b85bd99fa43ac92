"""Code bases whose weights can be converted."""

from collections.abc import Callable
from dataclasses import dataclass

from .mmdetection import mmdetection_rules
from .resnet import classifier_rules, counter_rules, resnet_rules

__all__ = ["LAYOUTS", "Layout"]

_SETTINGS_RGB = """\
  INPUT.FORMAT "RGB"
  MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], MODEL.PIXEL_STD [58.395, 57.12, 57.375]
  MODEL.RESNETS.STRIDE_IN_1X1 False"""

_MMDETECTION = f"""\
a backbone of mmdetection's style "pytorch":
{_SETTINGS_RGB}
and one of its style "caffe":
  INPUT.FORMAT "BGR"
  MODEL.PIXEL_MEAN [103.53, 116.28, 123.675], MODEL.PIXEL_STD [1.0, 1.0, 1.0]
  MODEL.RESNETS.STRIDE_IN_1X1 True"""


@dataclass(frozen=True)
class Layout:
    # rules(names, backbone, mask_stage, wanted=None) gives a list of rules, from the names of all
    # weights, the prefix of our backbone's names, the mask head of a cascade to convert (None: all)
    # and the names of the weights to convert (None: all).
    rules: Callable[..., list]
    settings: str  # of the config, which a model with such weights needs
    section: str | None = None  # key of the weights in files; None: a file holds only weights


def _image_classifier(names, backbone, mask_stage, wanted=None):
    return [*counter_rules(), *classifier_rules(), *resnet_rules("", backbone)]


def _mmdetection(names, backbone, mask_stage, wanted=None):
    return mmdetection_rules(names, mask_stage, wanted)


# The plain ResNets and ResNeXts of timm have torchvision's names.
LAYOUTS = {
    "mmdetection": Layout(_mmdetection, _MMDETECTION, section="state_dict"),
    "torchvision": Layout(_image_classifier, f"such a backbone:\n{_SETTINGS_RGB}"),
    "timm": Layout(_image_classifier, f"such a backbone:\n{_SETTINGS_RGB}"),
}

"""Code bases whose weights can be converted, and conversion of their files."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..engine.checkpoint_files import read_metadata
from ..engine.safetensors_files import is_safetensors, read_safetensors, write_safetensors
from ..engine.serialization import read_pickle, read_torch_file
from ..errors import ConversionError
from ..files import write_atomically
from .mmdetection import mmdetection_rules
from .resnet import CLASSIFIER, COUNTERS, resnet_rules
from .rules import Rule, convert
from .vit import is_vit, vit_rules

__all__ = ["LAYOUTS", "Layout", "convert_file", "read_weights"]

_SETTINGS_RGB = """\
  INPUT.FORMAT "RGB"
  MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], MODEL.PIXEL_STD [58.395, 57.12, 57.375]
  MODEL.RESNETS.STRIDE_IN_1X1 False"""

_SETTINGS_VIT = """\
  INPUT.FORMAT "RGB"
  MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], MODEL.PIXEL_STD [58.395, 57.12, 57.375]
  MODEL.BACKBONE.NAME "build_vit_backbone", MODEL.VIT of the same size"""

_TIMM = f"""\
a ResNet or ResNeXt:
{_SETTINGS_RGB}
and a plain ViT:
  INPUT.FORMAT "RGB"
  MODEL.PIXEL_MEAN and MODEL.PIXEL_STD: 255 times mean and std of timm.get_pretrained_cfg(NAME)
  MODEL.BACKBONE.NAME "build_vit_backbone", MODEL.VIT of the same size"""

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
    keeps_metadata: bool = False  # config, class names and versions, as in our checkpoints


def _image_classifier(names, backbone, mask_stage, wanted=None):
    return [COUNTERS, CLASSIFIER, *resnet_rules("", backbone)]


def _timm(names, backbone, mask_stage, wanted=None):
    # Converted back, a ViT's names have our prefix.
    if is_vit(names) or is_vit([name.removeprefix(backbone) for name in names]):
        return vit_rules(backbone)
    return _image_classifier(names, backbone, mask_stage, wanted)


def _vit(names, backbone, mask_stage, wanted=None):
    return vit_rules(backbone)


def _mmdetection(names, backbone, mask_stage, wanted=None):
    return mmdetection_rules(names, mask_stage, wanted)


def _ours(names, backbone, mask_stage, wanted=None):
    return [Rule("{rest}", "{rest}")]


# The plain ResNets and ResNeXts of timm have torchvision's names, and its plain ViTs those of MAE.
LAYOUTS = {
    "sparsercnn": Layout(_ours, "", section="model", keeps_metadata=True),
    "mmdetection": Layout(_mmdetection, _MMDETECTION, section="state_dict"),
    "torchvision": Layout(_image_classifier, f"such a backbone:\n{_SETTINGS_RGB}"),
    "timm": Layout(_timm, _TIMM),
    "mae": Layout(_vit, f"such a backbone:\n{_SETTINGS_VIT}", section="model"),
}

# Keys of the weights in the files of mmdetection, detectron2 and timm.
_WEIGHTS = ("state_dict", "model")
# Other keys of such files, which are not converted.
_LEFT_OUT = {
    "__author__", "amp", "arch", "args", "ema", "epoch", "iteration", "lr_scheduler",
    "matching_heuristics", "message_hub", "meta", "metric", "optimizer", "param_schedulers",
    "scaler", "scheduler", "trainer", "version",
}  # fmt: skip


def convert_file(
    source,
    target,
    layout,
    *,
    backbone="backbone.bottom_up.",
    mask_stage=None,
    only=(),
    reverse=False,
    allow_unsafe=False,
):
    """Convert a weight file to one for our models, ``{"model": weights}``.

    Args:
        source (str): a ``.pth``, ``.pkl`` or ``.safetensors`` file.
        target (str): the ``.pth`` or ``.safetensors`` file to write.
        layout (str): the code base of the weights, a name in LAYOUTS; "sparsercnn" for a checkpoint
            of this project, whose metadata is kept.
        backbone (str): prefix of our backbone's names: "backbone.bottom_up." with a neck,
            "backbone." without. Only used by layouts of image classifiers.
        mask_stage (int): the mask head of a cascade to convert, 0 to 2, for a model with a single
            one; None: all.
        only (iterable[str]): convert only weights whose names begin with one of these; (): all.
        reverse (bool): convert from our names to those of the layout.
        allow_unsafe (bool): load any pickle, which may run code.

    Returns:
        Converted: the written weights, and the number of weights left out by reason.

    Raises:
        CheckpointError: the source is damaged or refused as unsafe, or a package is missing.
        ConversionError: the file has no weights, weights that no rule covers, or other unknown
            content. Nothing is written.
        OSError: a file cannot be read or written.
    """
    weights = read_weights(source, allow_unsafe)
    kept = {k: v for k, v in weights.items() if not only or k.startswith(tuple(only))}
    if not kept:
        wanted = f" whose names begin with {' or '.join(only)}" if only else ""
        raise ConversionError(f"{source} has no weights{wanted}.", list(weights))
    rules = LAYOUTS[layout].rules(list(weights), backbone, mask_stage, list(kept))
    try:
        result = convert(kept, rules, reverse)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}", error.keys) from error
    if len(kept) < len(weights):
        result.dropped["not selected"] += len(weights) - len(kept)
    section = LAYOUTS[layout].section if reverse else "model"
    meta = read_metadata(source, allow_unsafe) if LAYOUTS[layout].keeps_metadata else {}
    data = {section: result.weights} if section else result.weights
    with write_atomically(target) as file:
        if is_safetensors(target):
            write_safetensors(file, result.weights, meta)
        else:
            torch.save({**data, **({"meta": meta} if meta else {})}, file)
    return result


def read_weights(path, allow_unsafe=False):
    """The weights in a file, without optimizer state and other known entries.

    Args:
        path (str): a ``.pth``, ``.pkl`` or ``.safetensors`` file that holds a dict of weights,
            possibly nested.
        allow_unsafe (bool): load any pickle, which may run code.

    Returns:
        dict[str, Tensor]: weights by name.

    Raises:
        ConversionError: the file has unknown entries.
    """
    if is_safetensors(path):
        return read_safetensors(path)["model"]
    read = read_pickle if os.path.splitext(path)[1] == ".pkl" else read_torch_file
    data = read(path, allow_unsafe)
    section = next((key for key in _WEIGHTS if isinstance(data.get(key), dict)), None)
    weights = data if section is None else data[section]
    unknown = [key for key, value in weights.items() if not hasattr(value, "__array__")]
    if section is not None:
        unknown += [key for key in data if key != section and key not in _LEFT_OUT]
    if unknown:
        raise ConversionError(
            f"{path} has unknown entries besides its weights: "
            f"{', '.join(map(str, unknown))}. Remove them from the file if they are not needed.",
            unknown,
        )
    return {key: torch.as_tensor(value).detach() for key, value in weights.items()}

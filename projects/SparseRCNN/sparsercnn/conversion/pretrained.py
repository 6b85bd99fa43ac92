"""Weights of image classifiers, or of self-supervised learning, for the backbone of a training."""

import logging
import os
import sys

import torch

from ..engine.weights_check import require_finite, require_tensors
from ..errors import CheckpointError, abbreviate
from ..modeling.backbones import TimmBackbone
from ..modeling.backbones.vit import resample_patches, resample_positions
from .files import read_weights
from .rules import convert
from .vit import is_vit, vit_rules

__all__ = ["load_pretrained", "pretrained_source"]

_BOTTOM_UP = "backbone.bottom_up."
_DOWNLOAD = "timm"  # value of MODEL.TIMM.PRETRAINED


def pretrained_source(cfg):
    """
    Returns:
        str: MODEL.TIMM.PRETRAINED or MODEL.VIT.PRETRAINED, whichever the backbone reads; "" for
        other backbones.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if name in ("build_timm_backbone", "build_timm_fpn_backbone"):
        return cfg.MODEL.TIMM.PRETRAINED
    return cfg.MODEL.VIT.PRETRAINED if name == "build_vit_backbone" else ""


def load_pretrained(cfg, model, allow_unsafe=False):
    """Load the weights that the config names into the backbone of a model, in place.

    The whole backbone must be in the file; what the file has besides, such as a classifier, is
    left out.

    Args:
        cfg (CfgNode): the whole config, with a :func:`pretrained_source`.
        model (nn.Module): with that backbone.
        allow_unsafe (bool): load any pickle, which may run code.

    Returns:
        list[str]: names in the model's state dict of the weights that stay as they were.

    Raises:
        CheckpointError: the file is missing, damaged or refused as unsafe, lacks weights of the
            backbone or has them in other shapes; or timm cannot download it.
        ConversionError: a ViT's file has weights that no rule covers.
    """
    source = pretrained_source(cfg)
    bottom_up = getattr(model.backbone, "bottom_up", model.backbone)
    if isinstance(bottom_up, TimmBackbone):
        weights = _for_timm(bottom_up, source, allow_unsafe)
        _warn_of_pixels(cfg, bottom_up)
    else:
        weights = _for_vit(bottom_up, source, allow_unsafe)
    own = bottom_up.state_dict()
    _require_fit(own, weights, source)
    require_finite(own, weights, source)
    bottom_up.load_state_dict(weights)
    logging.getLogger(__name__).info(
        f"The backbone starts from {len(weights)} weights of {source}."
    )
    loaded = {id(x) for x in bottom_up.state_dict(keep_vars=True).values()}
    return [k for k, x in model.state_dict(keep_vars=True).items() if id(x) not in loaded]


def _for_vit(vit, path, allow_unsafe):
    """Weights of a :class:`ViT` by its own names, in its own shapes where they can be made so."""
    weights = _read(path, allow_unsafe)
    if all(name.startswith(_BOTTOM_UP) for name in weights):  # from tools/convert.py
        weights = {name.removeprefix(_BOTTOM_UP): value for name, value in weights.items()}
    if not is_vit(weights):
        raise CheckpointError(
            f"MODEL.VIT.PRETRAINED: {path} has no plain ViT: it lacks pos_embed or the blocks. A "
            "detector's weights are for MODEL.WEIGHTS."
        )
    weights = convert(weights, vit_rules("")).weights
    depth = len(vit.blocks)
    weights = {k: x for k, x in weights.items() if not _is_of_later_block(k, depth)}
    positions, patches = weights["pos_embed"], weights["patch_embed.proj.weight"]
    if positions.shape[1] != vit.pos_embed.shape[1]:
        weights["pos_embed"] = resample_positions(positions, vit.pos_embed.shape[1])
    side = vit.patch_embed.proj.weight.shape[-1]
    if patches.shape[-1] != side:
        weights["patch_embed.proj.weight"] = resample_patches(patches, side)
    return weights


def _is_of_later_block(name, depth):
    part, _, rest = name.partition(".")
    return part == "blocks" and int(rest.partition(".")[0]) >= depth


def _for_timm(backbone, source, allow_unsafe):
    """Weights of a :class:`TimmBackbone` by its own names."""
    if source == _DOWNLOAD:
        whole = _downloaded(backbone)
        weights = whole.state_dict()
    else:
        weights = _in_timms_layout(backbone, _read(source, allow_unsafe), source)
    own = backbone.net.state_dict()
    found = {name: weights.get(backbone.original_names[name]) for name in own}
    counters = {x: own[x] for x in own if x.endswith("num_batches_tracked") and found[x] is None}
    return {f"net.{name}": x for name, x in (found | counters).items() if x is not None}


def _downloaded(backbone):
    try:
        return backbone.whole_model(pretrained=True)
    except Exception as error:  # of timm, its hub or the network
        raise CheckpointError(
            f"MODEL.TIMM.PRETRAINED is timm, but timm has or gets no weights of "
            f"{backbone.model_name}: {str(error).strip().partition(chr(10))[0]} Download them by "
            "hand, and set the key to the file."
        ) from error


def _in_timms_layout(backbone, weights, path):
    """A model's weights by timm's names; timm knows those of many authors."""
    with torch.device("meta"):
        whole = backbone.whole_model()
    change = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    if change is None:
        return weights
    try:
        return change(weights, whole)
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"MODEL.TIMM.PRETRAINED: {path} does not fit timm's {backbone.model_name}: "
            f"{type(error).__name__} {error}. Check MODEL.TIMM.NAME."
        ) from error


def _read(path, allow_unsafe):
    if not os.path.isfile(path):
        raise CheckpointError(
            f"The file {path} of MODEL.TIMM.PRETRAINED or MODEL.VIT.PRETRAINED does not exist. "
            "Check the key; '' starts from random weights."
        )
    weights = read_weights(path, allow_unsafe)
    require_tensors(weights, path)
    return weights


def _require_fit(own, weights, source):
    problems = [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(x.shape)} in the model"
        for name, x in own.items()
        if name in weights and weights[name].shape != x.shape
    ]
    missing = [name for name in own if name not in weights]
    problems += [f"the file lacks {abbreviate(missing)}"] if missing else []
    if problems:
        raise CheckpointError(
            f"{source} does not fit the backbone: {abbreviate(problems, separator='; ')}. Check "
            "MODEL.TIMM.NAME, or the sizes in MODEL.VIT."
        )


def _warn_of_pixels(cfg, backbone):
    """Say so if images are not normalised as those that the weights of this name have seen."""
    import timm

    known = timm.get_pretrained_cfg(backbone.model_name, allow_unregistered=True)
    if known is None:
        return
    order = slice(None, None, -1 if cfg.INPUT.FORMAT == "BGR" else 1)
    for key, theirs in (("PIXEL_MEAN", known.mean), ("PIXEL_STD", known.std)):
        theirs = [255 * x for x in theirs][order]
        ours = cfg.MODEL[key]
        if len(ours) == len(theirs) and any(
            abs(x - y) > 1 for x, y in zip(ours, theirs, strict=True)
        ):
            logging.getLogger(__name__).warning(
                f"MODEL.{key} is {list(ours)}, but timm's weights of {backbone.model_name} were "
                f"trained with {[round(x, 3) for x in theirs]} for {cfg.INPUT.FORMAT}."
            )

"""Weights of a model with other classes, proposals or patches, made to fit."""

import math
import re
from dataclasses import dataclass

import torch
import yaml
from tabulate import tabulate
from torch import Tensor

from ..errors import abbreviate
from ..modeling.backbones.vit import resample_patches, resample_positions

__all__ = ["Adapted", "adapt_weights", "describe_loading"]

# Layers with rows for classes, by name: rows per class, and the metadata with the classes' names.
# Rows come class by class; what follows is of no class (background, "no object").
_CLASS_ROWS = (
    (r"(^|\.)class_logits\.(weight|bias)$", 1, "thing_classes"),
    (r"\bbox_predictor\.(\d+\.)?cls_score\.(weight|bias)$", 1, "thing_classes"),
    (r"\bbox_predictor\.(\d+\.)?bbox_pred\.(weight|bias)$", 4, "thing_classes"),
    (r"\bmask_head\.(\d+\.)?predictor\.(weight|bias)$", 1, "thing_classes"),
    (r"\bsem_seg_head\.(position_|channel_)?predictor\.(weight|bias)$", 1, "stuff_classes"),
)
# Layers with rows for proposals: for each expert, N rows.
_PROPOSAL_ROWS = r"^(init_proposal_(boxes|features)|expert_weights\.linear2)\.(weight|bias)$"


@dataclass
class Adapted:
    """A weight that was made to fit.

    Attributes:
        value: of the model's shape.
        detail: what was kept and what is new, for a reader.
        has_new: whether a part of it is as the model was initialised.
    """

    value: Tensor
    detail: str
    has_new: bool


def adapt_weights(own, saved, own_meta, saved_meta):
    """Make weights of another model fit by the names of their classes, and by resampling proposals.

    Rows of a class that both models have are copied, also if it has another number in the other
    one; rows of other classes stay as initialised. Without the names of the saved classes, rows are
    taken as they are if there are as many. With fewer proposals than saved, these are evenly spaced
    ones of the saved; with more, those added stay as initialised. Positions and patch embedding of
    a plain ViT are interpolated.

    Args:
        own (dict[str, Tensor]): the model's state dict, as initialised.
        saved (dict[str, Tensor]): that of the file, with the same names.
        own_meta, saved_meta (dict): see :func:`~sparsercnn.engine.checkpoint_files.describe_run`.

    Returns:
        dict[str, Adapted]: by name, the weights that must not be loaded as they are.
    """
    experts = _num_experts(own_meta, own), _num_experts(saved_meta, saved)
    adapted = {}
    for name, value in own.items():
        result = _fitted_to_patches(name, value, saved.get(name))
        if result is not None:
            adapted[name] = result
            continue
        if name not in saved or value.shape[1:] != saved[name].shape[1:] or value.ndim == 0:
            continue
        found = next((x for x in _CLASS_ROWS if re.search(x[0], name)), None)
        if found:
            _, rows, kind = found
            classes = own_meta.get(kind), _names(saved_meta.get(kind))
            result = _by_class(value, saved[name], *classes, rows)
        elif re.search(_PROPOSAL_ROWS, name) and value.shape != saved[name].shape:
            result = _resampled(value, saved[name], *experts)
        else:
            continue
        if result is not None:
            adapted[name] = result
    return adapted


def _fitted_to_patches(name, own, saved):
    """A ViT's positions, or patch embedding, for another grid or size of patches."""
    if saved is None or own.shape == saved.shape or own.dim() != saved.dim():
        return None
    if name.endswith("bottom_up.pos_embed") and own.shape[2] == saved.shape[2]:
        sides = math.isqrt(saved.shape[1]), math.isqrt(own.shape[1])
        if sides[0] ** 2 != saved.shape[1]:
            return None
        value = resample_positions(saved, own.shape[1])
        return Adapted(value, "positions {0} x {0}, made {1} x {1}".format(*sides), False)
    if name.endswith("bottom_up.patch_embed.proj.weight") and own.shape[:2] == saved.shape[:2]:
        sides = saved.shape[-1], own.shape[-1]
        value = resample_patches(saved, own.shape[-1])
        return Adapted(value, "patches {0} x {0}, made {1} x {1}".format(*sides), False)
    return None


def _names(classes):
    """Names of classes; None if these are something else, as in files of other code."""
    is_list = isinstance(classes, (list, tuple))
    return classes if is_list and all(isinstance(x, str) for x in classes) else None


def _by_class(own, saved, classes, saved_classes, rows):
    if not classes or not saved_classes:
        return None
    others = len(own) - rows * len(classes), len(saved) - rows * len(saved_classes)
    if min(others) < 0:  # one set of rows for all classes
        return None
    if own.shape == saved.shape and classes == saved_classes:
        return None
    if rows > 1 and len(own) == len(saved) == rows:  # boxes of one class are boxes of any
        return None
    value = own.clone()
    common = [name for name in classes if name in saved_classes]
    for name in common:
        to, start = rows * classes.index(name), rows * saved_classes.index(name)
        value[to : to + rows] = saved[start : start + rows]
    if others[0] == others[1] > 0:
        value[-others[0] :] = saved[-others[0] :]
    new = [name for name in classes if name not in saved_classes]
    parts = [f"rows kept: {abbreviate(common, 8)}"] if common else []
    parts += [f"new: {abbreviate(new, 8)}"] if new else []
    has_new = bool(new) or others[0] > others[1]
    return Adapted(value, "; ".join(parts), has_new)


def _resampled(own, saved, own_experts, saved_experts):
    if own_experts != saved_experts or len(saved) % saved_experts:
        return None
    value = own.clone().view(own_experts, -1, *own.shape[1:])
    saved = saved.view(saved_experts, -1, *saved.shape[1:])
    N, num_saved = value.shape[1], saved.shape[1]
    if num_saved > N:
        # In whole numbers, so that no index depends on rounding.
        index = torch.arange(N) * (num_saved - 1) // max(N - 1, 1)
        value[:] = saved[:, index]
        detail = f"{N} of {num_saved} proposals, evenly spaced"
    else:
        value[:, :num_saved] = saved
        detail = f"{num_saved} proposals kept, {N - num_saved} new"
    return Adapted(value.view_as(own), detail, has_new=num_saved < N)


def _num_experts(meta, weights):
    """Sets of proposals in the weights; None: a file without config does not tell."""
    if not any(name.startswith("expert_weights.") for name in weights):
        return 1
    text = meta.get("config_yaml")
    return text and yaml.safe_load(text)["MODEL"]["SparseRCNN"]["PROPOSALS"]["NUM_EXPERTS"]


def describe_loading(names, adapted, new, unused):
    """A table of what was loaded.

    Args:
        names (sequence[str]): all weights of the model.
        adapted (dict[str, Adapted]): those that were made to fit.
        new (set[str]): those that the file does not have.
        unused (sequence[str]): those of the file that the model does not have.

    Returns:
        str: lines; stages and blocks are counted, not listed.
    """
    groups = {}

    def add(what, name, detail=""):
        groups[what, name, detail] = groups.get((what, name, detail), 0) + 1

    for name in names:
        if name in adapted:
            add("adapted", _layer(name), adapted[name].detail)
        elif name not in new:
            add("kept", name.partition(".")[0])
    for name in names:
        if name in new and name not in adapted:
            add("new", _layer(name))
    for name in unused:
        add("not used", _layer(name))
    rows = [
        (what, name, count, detail)
        for wanted in ("kept", "adapted", "new", "not used")
        for (what, name, detail), count in groups.items()
        if what == wanted
    ]
    return tabulate(rows, ["", "weights", "tensors", ""], tablefmt="simple")


def _layer(name):
    """The layer of a weight, with stages and blocks as "*", not deeper than four levels."""
    parts = [re.sub(r"\d+", "*", part) for part in name.split(".")[:-1]] or [name]
    return ".".join(parts[:4])

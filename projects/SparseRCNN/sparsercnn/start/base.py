"""The config that the choices for a data set are laid over, and the model of given weights."""

import dataclasses
import json
import os
from dataclasses import dataclass

from detectron2.config import CfgNode

from ..config_files import find_config
from ..conversion.pretrained import pretrained_source
from ..engine.checkpoint_files import find_weights
from ..engine.overrides import flatten
from ..engine.setup import load_config, load_model_config
from ..errors import ConfigError
from .choices import Choice

__all__ = ["Base", "model_choices", "read_base"]

RECIPE = "recipes/small_data"
# Sections of MODEL that a checkpoint brings along, and keys of them that are for the data or the
# training instead.
_ARCHITECTURE = ("MODEL.BACKBONE", "MODEL.RESNETS", "MODEL.FPN", "MODEL.ROI_", "MODEL.SparseRCNN")
_ARCHITECTURE += ("MODEL.TIMM", "MODEL.VIT")
_INPUT = ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT")
_MASKS = ("MODEL.MASK_ON", "INPUT.MASK_FORMAT")
_NOT_ARCHITECTURE = (
    "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.TIMM.PRETRAINED",  # the checkpoint has these weights
    "MODEL.VIT.PRETRAINED",
    "MODEL.SparseRCNN.MATCHER.",
    "MODEL.SparseRCNN.NUM_CLASSES",
    "MODEL.SparseRCNN.NUM_PROPOSALS",
    "MODEL.SparseRCNN.NMS_THRESH_TEST",
    "MODEL.SparseRCNN.SCORE_THRESH_TEST",
    "MODEL.SparseRCNN.PROPOSALS.INIT",
)


@dataclass
class Base:
    """What the choices for a data set are laid over."""

    file: str  # absolute
    cfg: CfgNode  # its content
    weights: str | None = None  # in place of MODEL.WEIGHTS of `cfg`; None: those
    # Keys that `weights`, or the masks of the data, want otherwise.
    model: dict = dataclasses.field(default_factory=dict)

    @property
    def mask_format(self):
        """str: INPUT.MASK_FORMAT; None without MODEL.MASK_ON."""
        mask_on = self.model.get("MODEL.MASK_ON", self.cfg.MODEL.MASK_ON)
        return self.model.get("INPUT.MASK_FORMAT", self.cfg.INPUT.MASK_FORMAT) if mask_on else None

    def without_masks_of_weights(self):
        """Base: with what the model of the weights has for boxes alone."""
        if not self.model.get("MODEL.MASK_ON"):
            return self
        of_masks = (*_MASKS, "MODEL.SparseRCNN.MASK.")
        model = {key: x for key, x in self.model.items() if not key.startswith(of_masks)}
        return dataclasses.replace(self, model={"MODEL.MASK_ON": False, **model})

    def with_bitmasks(self):
        """Base: for data some of whose masks are run-length encoded, which are no polygons."""
        return dataclasses.replace(self, model={**self.model, "INPUT.MASK_FORMAT": "bitmask"})


def read_base(config_file="", weights="", allow_unsafe=False):
    """
    Args:
        config_file (str): a YAML file, or the name of one in ``configs``; "": the recipe for small
            data, with the architecture of the weights' model.
        weights (str): a checkpoint or a URL of one, or the folder of a run; "": none.
        allow_unsafe (bool): trust the config's Python tags and any pickled weights.

    Returns:
        Base: what was read.

    Raises:
        ConfigError: the config, or that of the weights, is for another meta-architecture than
            SparseRCNN, or cannot be read; or the weights do not exist.
    """
    file = os.path.abspath(find_config(config_file or RECIPE))
    cfg = load_config(file, allow_unsafe=allow_unsafe, register=False)
    _require_sparse_rcnn(cfg, file)
    if not weights:
        return Base(file, cfg)
    if config_file:
        return Base(file, cfg, _checkpoint(weights))
    trained = load_model_config("", ["MODEL.WEIGHTS", weights], allow_unsafe, register=False)
    _require_sparse_rcnn(trained, weights)
    known = dict(flatten(cfg))
    differing = {
        key: value
        for key, value in flatten(trained)
        if (key.startswith(_ARCHITECTURE) or key in _INPUT + _MASKS)
        and not key.startswith(_NOT_ARCHITECTURE)
        # As json, since YAML has no tuples.
        and json.dumps(known.get(key)) != json.dumps(value)
    }
    return Base(file, cfg, _checkpoint(trained.MODEL.WEIGHTS), differing)


def model_choices(base):
    """
    Args:
        base (Base): what the choices are laid over.

    Returns:
        list[Choice]: weights, and the architecture that they need.
    """
    pretrained = pretrained_source(base.cfg)
    if base.weights is not None:
        why = "From this model; what does not fit the classes of the data is learned anew."
    elif base.cfg.MODEL.WEIGHTS:
        why = "Those of _BASE_, which its model starts from."
    elif pretrained:
        why = f"None: as in _BASE_, the backbone starts from its PRETRAINED, {pretrained}."
    else:
        why = (
            "No weights: the model learns from scratch. With weights of a similar job it is faster."
        )
    weights = base.cfg.MODEL.WEIGHTS if base.weights is None else base.weights
    choices = [Choice("MODEL.WEIGHTS", weights, why)]
    for key, value in base.model.items():
        why = "As in the model of MODEL.WEIGHTS."
        if (key, value) == ("MODEL.MASK_ON", False):
            why = "The model of MODEL.WEIGHTS has masks, which are left out: the data has no masks."
        elif key == "INPUT.MASK_FORMAT" and value == "bitmask":
            why = "Reads masks as run lengths (RLE), too."
        choices.append(Choice(key, value, why))
    return choices


def _require_sparse_rcnn(cfg, source):
    if cfg.MODEL.META_ARCHITECTURE != "SparseRCNN":
        raise ConfigError(
            f"{source} is a {cfg.MODEL.META_ARCHITECTURE}; start makes configs for SparseRCNN. For "
            "others, set DATASETS and the number of classes, see docs/data.md."
        )


def _checkpoint(path):
    """What training takes as MODEL.WEIGHTS, from wherever it is started."""
    if "://" in path:
        return path
    path = os.path.abspath(find_weights(path) if os.path.isdir(path) else path)
    if not os.path.isfile(path):
        raise ConfigError(f"The weights {path} do not exist. Give --weights a file or a run.")
    return path

"""From a file, or the folder of a run, to a model that is ready to run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detectron2.modeling import build_model

from ..engine.checkpoint import load_for_inference
from ..engine.checkpoint_files import is_exported
from ..engine.setup import load_demo_config
from .optimization import prepare_for_inference

if TYPE_CHECKING:
    from .predictor import Predictor

__all__ = ["load", "load_model", "load_predictor"]


def load(
    source: str | os.PathLike[str],
    device: str | None = None,
    *,
    config_file: str | os.PathLike[str] = "",
    opts: Sequence[str] = (),
    allow_unsafe: bool = False,
) -> Predictor:
    """Load a trained model.

    Args:
        source (str | Path): the folder of a run (OUTPUT_DIR), of which ``model_best.pth``, else
            ``model_final.pth``, else the last checkpoint is used; a checkpoint; or an exported
            model (.onnx, .xml, .pt2).
        device (str): such as "cpu" or "cuda"; None: that of `config_file` if there is one, else a
            GPU if there is one.
        config_file (str | Path): the config, or its name, for a checkpoint without one or in place
            of its own; see :func:`~sparsercnn.config_files.find_config`.
        opts (sequence[str]): KEY VALUE pairs that override the config, flattened, such as
            ["TEST.DTYPE", "bfloat16"].
        allow_unsafe (bool): load any pickle, and let Python tags of `config_file` run code.

    Returns:
        Predictor: to be called with images.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged or refused as unsafe, or it does not
            fit the config.
        ConfigError: there is no config, it has an error, or the device cannot be used.
    """
    device = [] if device is None else ["MODEL.DEVICE", str(device)]
    opts = ["MODEL.WEIGHTS", os.fspath(source), *device, *opts]
    return load_predictor(config_file, opts, allow_unsafe)


def load_predictor(config_file="", opts=(), allow_unsafe=False):
    """:func:`load` as a command line has it, with all but the config in `opts`.

    Args:
        config_file (str | Path): "" for that of the checkpoint.
        opts (sequence[str]): KEY VALUE pairs, flattened; MODEL.WEIGHTS is the `source`.
        allow_unsafe (bool): see :func:`load`.

    Returns:
        Predictor: as from :func:`load`, with the same errors.
    """
    from .predictor import Predictor  # it imports this module

    cfg = load_demo_config(config_file, opts, allow_unsafe=allow_unsafe)
    return Predictor(cfg, allow_unsafe=allow_unsafe)


def load_model(cfg, allow_unsafe=False):
    """Build the model of a config, with its weights, for inference alone.

    Args:
        cfg (CfgNode): the whole config; MODEL.WEIGHTS must hold all weights of the model, or be an
            exported model, which runs on MODEL.DEVICE.
        allow_unsafe (bool): load any pickle, which may run code.

    Returns:
        tuple: the model, prepared by :func:`prepare_for_inference`, and the checkpoint's metadata.

    Raises:
        CheckpointError: see :func:`~sparsercnn.engine.checkpoint.load_for_inference`.
    """
    if is_exported(cfg.MODEL.WEIGHTS):
        from ..export import load_exported_for  # it imports this room

        model = load_exported_for(cfg)
        description = model.metadata.classes
    else:
        model = build_model(cfg)
        description = load_for_inference(model, cfg.MODEL.WEIGHTS, allow_unsafe)
    return prepare_for_inference(cfg, model), description

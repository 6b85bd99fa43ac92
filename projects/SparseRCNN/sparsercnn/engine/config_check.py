"""Checks at the start for settings that have no effect or would fail hours later."""

from operator import attrgetter

import torch
from detectron2.modeling import build_model

from ..errors import ConfigError
from ..inference import check_optimization
from ..modeling.segmentation.sem_seg_inference import check_sem_seg_test
from .schedule import check_schedule

__all__ = ["ConfigError", "check_config", "check_gpus", "check_model", "require_augmentable"]

_ATTENTION_FPN = "build_resnet_attention_fpn_backbone"
_DILATED = "build_dilated_resnet_backbone"
_RESNETS = (
    "build_resnet_backbone",
    "build_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
    _ATTENTION_FPN,
    _DILATED,
)
# Key of MODEL -> another key of MODEL, and the value of that one with which the first is read.
_READ_WITH = {
    "SparseRCNN.CLASS_WEIGHTS": ("META_ARCHITECTURE", "SparseRCNN"),
    "FPN.AGGREGATION": ("BACKBONE.NAME", _ATTENTION_FPN),
    "RESNETS.RES5_ATTENTION": ("BACKBONE.NAME", _ATTENTION_FPN),
    "RESNETS.RES4_DILATION": ("BACKBONE.NAME", _DILATED),
    "RESNETS.RES5_MULTI_GRID": ("BACKBONE.NAME", _DILATED),
    "DANET.DROPOUT": ("DANET.ATTENTION", "projected"),
    "SEM_SEG_HEAD.LOSS_TOP_K": ("SEM_SEG_HEAD.LOSS_TYPE", "hard_pixel_mining"),
    "CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS": ("ROI_HEADS.NAME", "CascadeMaskROIHeads"),
}


def check_config(cfg, defaults):
    """Raise ConfigError if a key of model, input or testing has no effect or an invalid value.

    Args:
        cfg (CfgNode): the whole config.
        defaults (CfgNode): the same keys with their default values.
    """
    _check_unread(cfg.MODEL, defaults.MODEL)
    _check_size_bucket(cfg)
    _check_test(cfg, defaults)
    check_schedule(cfg)


def check_gpus(cfg, num_gpus):
    """Raise ConfigError if a training cannot use its GPUs, wherever they are.

    Args:
        cfg (CfgNode): the whole config.
        num_gpus (int): of all nodes together; 0: it runs on the CPU.
    """
    if num_gpus == 0:
        return
    if not cfg.MODEL.DEVICE.startswith(("cuda", "auto")):
        raise ConfigError(
            f"it gets {num_gpus} GPUs, and MODEL.DEVICE is {cfg.MODEL.DEVICE}. For GPUs: --opts "
            "MODEL.DEVICE cuda. For the CPU: --gpus 0."
        )
    # With REFERENCE_WORLD_SIZE the batch follows the number of GPUs.
    batch = cfg.SOLVER.IMS_PER_BATCH
    if cfg.SOLVER.REFERENCE_WORLD_SIZE == 0 and batch % num_gpus:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH {batch} cannot be shared by {num_gpus} GPUs.")


def check_model(cfg):
    """Raise ConfigError if the model cannot be built: widths that do not fit, and the like.

    It takes a moment and no memory. A model that needs a real device passes.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            build_model(cfg)
    except NotImplementedError:
        return
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"The model cannot be built: {error}") from error


def require_augmentable(cfg):
    """Raise ConfigError if TEST.AUG does not support the model's meta-architecture."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture != "SparseRCNN":
        raise ConfigError(
            f"TEST.AUG.ENABLED is for SparseRCNN, not for {architecture}. Set it to False; "
            "semantic segmentation has TEST.SEM_SEG.SCALES and FLIP instead."
        )


def _check_unread(model, defaults):
    for key, (switch, wanted) in _READ_WITH.items():
        value, chosen = attrgetter(key)(model), attrgetter(switch)(model)
        if chosen == wanted or value == attrgetter(key)(defaults) or _is_foreign(model, switch):
            continue
        if key == "DANET.DROPOUT" and value == 0:  # as without dropout
            continue
        raise ConfigError(
            f"MODEL.{key} {value} has no effect with MODEL.{switch} {chosen}; set that to {wanted}."
        )


def _is_foreign(model, switch):
    """Whether `switch` belongs to a part of another project, which may read any key."""
    if switch == "BACKBONE.NAME":
        return model.BACKBONE.NAME not in _RESNETS
    is_danet = switch in ("DANET.ATTENTION", "SEM_SEG_HEAD.LOSS_TYPE")
    return is_danet and model.SEM_SEG_HEAD.NAME != "DANetHead"


def _check_size_bucket(cfg):
    architecture = cfg.MODEL.META_ARCHITECTURE
    for part in ("INPUT", "TEST"):
        bucket = cfg[part].SIZE_BUCKET
        if bucket < 0:
            raise ConfigError(
                f"{part}.SIZE_BUCKET is {bucket}; it must be a number of pixels, such as 128, or 0."
            )
        if bucket and architecture in ("GeneralizedRCNN", "SemanticSegmentor"):
            raise ConfigError(
                f"{part}.SIZE_BUCKET {bucket} has no effect on {architecture}: only SparseRCNN "
                "reads it. Set it to 0."
            )


def _check_test(cfg, defaults):
    device = cfg.MODEL.DEVICE
    # Another machine will choose, see load_config.
    check_optimization(cfg.TEST.OPTIMIZE, cfg.TEST.DTYPE, "cuda" if device == "auto" else device)
    if cfg.TEST.AUG.ENABLED:
        require_augmentable(cfg)
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "SemanticSegmentor":
        check_sem_seg_test(cfg)
        return
    for key, value in cfg.TEST.SEM_SEG.items():
        if value != defaults.TEST.SEM_SEG[key]:
            raise ConfigError(
                f"TEST.SEM_SEG.{key} {value} has no effect on {architecture}: only "
                "SemanticSegmentor reads it. Remove the setting."
            )

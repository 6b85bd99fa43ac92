"""Checks at the start for settings that have no effect or would fail hours later."""

import itertools
import math
from importlib.util import find_spec
from operator import attrgetter

from detectron2 import modeling as detectron2_modeling
from detectron2.config import get_cfg

from ..config_schema import rows
from ..config_values import Registered, as_text
from ..data.recipes import check_recipes
from ..errors import ConfigError
from ..inference import check_optimization
from ..modeling.interaction import INTERACTION_REGISTRY
from ..modeling.masks import MASK_HEAD_REGISTRY
from ..modeling.matching import MATCHER_REGISTRY
from ..modeling.proposals import PROPOSALS_REGISTRY
from ..modeling.segmentation.danet_attention import DANET_ATTENTION_REGISTRY
from ..modeling.segmentation.sem_seg_inference import check_sem_seg_test
from ..modeling.slices import check_slices
from ..modeling.tta import check_scale_ranges
from .overrides import flatten

__all__ = ["check_batch", "check_config", "check_gpus", "require_augmentable"]

_ATTENTION_FPN = "build_resnet_attention_fpn_backbone"
_DILATED = "build_dilated_resnet_backbone"
_TIMM = ("build_timm_fpn_backbone", "build_timm_backbone")
_VIT = "build_vit_backbone"
_OF_RESNETS = (
    "build_resnet_backbone",
    "build_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
    _ATTENTION_FPN,
)
_BACKBONES = (*_OF_RESNETS, _DILATED, *_TIMM, _VIT)
_OF_TIMM = ("NAME", "PRETRAINED", "OUT_FEATURES", "DROP_PATH", "OUTPUT_STRIDE", "NORM")
_OF_VIT = (
    *("PRETRAINED", "PATCH_SIZE", "EMBED_DIM", "DEPTH", "NUM_HEADS", "MLP_RATIO"),
    *("PRETRAIN_SIZE", "WINDOW_SIZE", "GLOBAL_BLOCKS", "DROP_PATH"),
)
# Key of MODEL -> another key of MODEL, and the value of that one, or values, with which the first
# is read.
_READ_WITH = {
    **{f"TIMM.{key}": ("BACKBONE.NAME", _TIMM) for key in _OF_TIMM},
    **{f"VIT.{key}": ("BACKBONE.NAME", _VIT) for key in _OF_VIT},
    "SparseRCNN.CLASS_WEIGHTS": ("META_ARCHITECTURE", "SparseRCNN"),
    "FPN.AGGREGATION": ("BACKBONE.NAME", (_ATTENTION_FPN, _TIMM[0])),
    "RESNETS.RES5_ATTENTION": ("BACKBONE.NAME", _ATTENTION_FPN),
    "RESNETS.RES4_DILATION": ("BACKBONE.NAME", _DILATED),
    "RESNETS.RES5_MULTI_GRID": ("BACKBONE.NAME", _DILATED),
    "DANET.DROPOUT": ("DANET.ATTENTION", "projected"),
    "SEM_SEG_HEAD.LOSS_TOP_K": ("SEM_SEG_HEAD.LOSS_TYPE", "hard_pixel_mining"),
    "CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS": ("ROI_HEADS.NAME", "CascadeMaskROIHeads"),
}


# Channels of an image by INPUT.FORMAT; of all others 3.
_CHANNELS = {"L": 1, "F": 1, "I": 1, "RGBA": 4, "CMYK": 4}
# Names in the table of keys; all other registries are detectron2's.
_REGISTRIES = {
    "DANET_ATTENTION": DANET_ATTENTION_REGISTRY,
    "INTERACTION": INTERACTION_REGISTRY,
    "MASK_HEAD": MASK_HEAD_REGISTRY,
    "MATCHER": MATCHER_REGISTRY,
    "PROPOSALS": PROPOSALS_REGISTRY,
}


def check_config(cfg, defaults):
    """Raise ConfigError if a key has no effect or an invalid value.

    Keys without a row in the table of ``config_schema.py`` may have any value but NaN, those of
    other projects that too.

    Args:
        cfg (CfgNode): the whole config.
        defaults (CfgNode): the same keys with their default values.
    """
    _check_values(cfg)
    _check_unread(cfg.MODEL, defaults.MODEL)
    _check_size_bucket(cfg)
    _check_input(cfg)
    check_recipes(cfg)
    _check_heads(cfg.MODEL)
    _check_norms(cfg.MODEL)
    _check_decay(cfg.SOLVER, defaults.SOLVER)
    _check_solver(cfg)
    _check_test(cfg, defaults)


def check_batch(cfg, number, what):
    """Raise ConfigError if a batch cannot be shared.

    Args:
        cfg (CfgNode): the whole config.
        number (int): of processes.
        what (str): name of those, for the message.
    """
    # With REFERENCE_WORLD_SIZE the batch follows the number of processes.
    batch = cfg.SOLVER.IMS_PER_BATCH
    if cfg.SOLVER.REFERENCE_WORLD_SIZE == 0 and batch % number:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch} cannot be shared by {number} {what}. Set it to a "
            f"multiple of {number}."
        )


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
    check_batch(cfg, num_gpus, "GPUs")


def require_augmentable(cfg):
    """Raise ConfigError if TEST.AUG does not support the model's meta-architecture."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture != "SparseRCNN":
        raise ConfigError(
            f"TEST.AUG.ENABLED is for SparseRCNN, not for {architecture}. Set it to False; "
            "semantic segmentation has TEST.SEM_SEG.SCALES and FLIP instead."
        )


def _check_values(cfg):
    theirs = dict(flatten(get_cfg()))
    table = rows()
    for key, value in flatten(cfg):
        row = table.get(key)
        if row is None:
            if key in theirs and isinstance(value, float) and math.isnan(value):
                raise ConfigError(f"{key} is nan; it must be a number.")
        elif not row.allowed.accepts(value):
            raise ConfigError(f"{key} is {as_text(value)}; it must be {row.allowed.allowed}.")
        elif isinstance(row.allowed, Registered) and value not in row.allowed.others:
            _require_registered(key, value, row.allowed.registry)


def _require_registered(key, name, registry):
    registered = _REGISTRIES.get(registry) or getattr(detectron2_modeling, f"{registry}_REGISTRY")
    if name not in registered:
        known = ", ".join(sorted(entry for entry, _ in registered))
        raise ConfigError(f"{key} is {as_text(name)}; the {registry} registry has {known}.")


def _check_unread(model, defaults):
    for key, (switch, wanted) in _READ_WITH.items():
        value, chosen = attrgetter(key)(model), attrgetter(switch)(model)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        if chosen in wanted or value == attrgetter(key)(defaults) or _is_foreign(model, switch):
            continue
        if key == "DANET.DROPOUT" and value == 0:  # as without dropout
            continue
        raise ConfigError(
            f"MODEL.{key} {value} has no effect with MODEL.{switch} {chosen}; set that to "
            f"{' or '.join(wanted)}."
        )


def _is_foreign(model, switch):
    """Whether `switch` belongs to a part of another project, which may read any key."""
    if switch == "BACKBONE.NAME":
        return model.BACKBONE.NAME not in _BACKBONES
    is_danet = switch in ("DANET.ATTENTION", "SEM_SEG_HEAD.LOSS_TYPE")
    return is_danet and model.SEM_SEG_HEAD.NAME != "DANetHead"


def _check_size_bucket(cfg):
    architecture = cfg.MODEL.META_ARCHITECTURE
    for part in ("INPUT", "TEST"):
        bucket = cfg[part].SIZE_BUCKET
        if bucket and architecture in ("GeneralizedRCNN", "SemanticSegmentor"):
            raise ConfigError(
                f"{part}.SIZE_BUCKET {bucket} has no effect on {architecture}: only SparseRCNN "
                "reads it. Set it to 0."
            )


def _check_input(cfg):
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if sampling == "range" and (len(sizes) != 2 or sizes[0] > sizes[1]):
        raise ConfigError(
            f"INPUT.MIN_SIZE_TRAIN is {tuple(sizes)}; with MIN_SIZE_TRAIN_SAMPLING range it must "
            "be two sizes, the smaller one first."
        )
    crop = cfg.INPUT.CROP
    whole, absolute = all(isinstance(x, int) for x in crop.SIZE), crop.TYPE.startswith("absolute")
    if (absolute and not whole) or (not absolute and max(crop.SIZE) > 1):
        what = "whole numbers of pixels" if absolute else "shares of the image, above 0 to 1"
        raise ConfigError(
            f"INPUT.CROP.SIZE is {tuple(crop.SIZE)}; with CROP.TYPE {crop.TYPE} it must be two "
            f"{what}."
        )
    channels = _CHANNELS.get(cfg.INPUT.FORMAT, 3)
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != channels:
            raise ConfigError(
                f"MODEL.{key} has {len(cfg.MODEL[key])} values for the {channels} channels of "
                f"INPUT.FORMAT {cfg.INPUT.FORMAT}; give one per channel."
            )


def _check_heads(model):
    sparse = model.SparseRCNN
    if model.META_ARCHITECTURE == "SparseRCNN" and sparse.HIDDEN_DIM % sparse.NHEADS:
        raise ConfigError(
            f"MODEL.SparseRCNN.NHEADS {sparse.NHEADS} does not divide HIDDEN_DIM "
            f"{sparse.HIDDEN_DIM}; set it to a divisor, such as "
            f"{math.gcd(sparse.NHEADS, sparse.HIDDEN_DIM)}."
        )
    for name in ("RPN", "ROI_HEADS"):
        limits, labels = model[name].IOU_THRESHOLDS, model[name].IOU_LABELS
        if len(labels) != len(limits) + 1 or list(limits) != sorted(limits):
            raise ConfigError(
                f"MODEL.{name}.IOU_THRESHOLDS {list(limits)} must ascend, and IOU_LABELS "
                f"{list(labels)} have one label more."
            )


def _check_norms(model):
    """Detectron2's own parts have all norms but auto."""
    for key, part, names, remedy in (
        ("RESNETS", model.BACKBONE.NAME, _OF_RESNETS, f"MODEL.BACKBONE.NAME {_DILATED}"),
        ("SEM_SEG_HEAD", model.SEM_SEG_HEAD.NAME, ("SemSegFPNHead",), "the DANetHead"),
    ):
        if model[key].NORM == "auto" and part in names:
            raise ConfigError(
                f"MODEL.{key}.NORM auto is for {remedy}, and not for {part}. Set it to SyncBN on "
                "several GPUs, to BN otherwise, or to FrozenBN for published weights."
            )


def _check_decay(solver, defaults):
    for key in ("WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS", "BIAS_LR_FACTOR"):
        if solver[key] != defaults[key]:
            raise ConfigError(
                f"SOLVER.{key} {solver[key]} has no effect here: norms and biases learn and decay "
                "like all parameters; SOLVER.NO_DECAY_NORM_BIAS True takes them out of the decay. "
                "Remove the setting."
            )


def _check_solver(cfg):
    solver = cfg.SOLVER
    for name in ("STEPS", "STEP_FRACTIONS"):
        steps = solver[name] or ()
        if any(later < earlier for earlier, later in itertools.pairwise(steps)):
            raise ConfigError(f"SOLVER.{name} is {as_text(tuple(steps))}; it must ascend.")
    if solver.NESTEROV and solver.OPTIMIZER.upper() == "SGD" and solver.MOMENTUM == 0:
        raise ConfigError("SOLVER.NESTEROV True needs a momentum; set SOLVER.MOMENTUM, say to 0.9.")
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        raise ConfigError(
            f"SOLVER.BASE_LR_END {solver.BASE_LR_END} is above SOLVER.BASE_LR {solver.BASE_LR}, "
            "from which WarmupCosineLR descends to it."
        )
    if solver.EMA.ENABLED and cfg.TEST.PRECISE_BN.ENABLED:
        raise ConfigError(
            "TEST.PRECISE_BN.ENABLED True has no effect on the averaged weights of "
            "SOLVER.EMA.ENABLED True, which average the statistics of batch norms too. Set one of "
            "them to False."
        )
    _check_precise_bn(cfg)
    test = cfg.TEST
    is_evaluated = test.EVAL_PERIOD > 0 or test.EVAL_EPOCHS is not None
    if solver.PATIENCE > 0 and not (is_evaluated and test.BEST_METRIC and cfg.DATASETS.TEST):
        raise ConfigError(
            f"SOLVER.PATIENCE {solver.PATIENCE} needs evaluations: set DATASETS.TEST, "
            "TEST.BEST_METRIC, and TEST.EVAL_PERIOD or TEST.EVAL_EPOCHS."
        )
    for split in ("TRAIN", "TEST"):
        files, names = cfg.DATASETS[f"PROPOSAL_FILES_{split}"], cfg.DATASETS[split]
        if cfg.MODEL.LOAD_PROPOSALS and len(files) != len(names):
            raise ConfigError(
                f"With MODEL.LOAD_PROPOSALS, DATASETS.PROPOSAL_FILES_{split} must have a file for "
                f"each of DATASETS.{split}: it has {len(files)} for {len(names)}."
            )


def _check_precise_bn(cfg):
    """fvcore fails after the iterations before the first evaluation, or, without any before the
    end, in the last one."""
    sparse = cfg.MODEL.SparseRCNN
    mask = sparse.MASK
    with_masks = cfg.MODEL.META_ARCHITECTURE == "SparseRCNN" and cfg.MODEL.MASK_ON
    # Without deep supervision, the one head is used once.
    is_reused = mask.SHARED and sparse.DEEP_SUPERVISION and sparse.NUM_HEADS > 1
    has_batch_norms = mask.NAME == "dynamic" and mask.NORM not in ("", "GN", "LN", "FrozenBN")
    if cfg.TEST.PRECISE_BN.ENABLED and with_masks and is_reused and has_batch_norms:
        raise ConfigError(
            "TEST.PRECISE_BN.ENABLED True cannot measure batch norms that several stages share: "
            "set it or MODEL.SparseRCNN.MASK.SHARED to False."
        )


def _check_test(cfg, defaults):
    if cfg.TEST.COCO_EVAL == "faster_coco_eval" and find_spec("faster_coco_eval") is None:
        raise ConfigError(
            "TEST.COCO_EVAL is faster_coco_eval, which is not installed: pip install "
            "faster-coco-eval, or set it to auto."
        )
    device = cfg.MODEL.DEVICE
    # Another machine will choose, see load_config.
    check_optimization(cfg.TEST.OPTIMIZE, cfg.TEST.DTYPE, "cuda" if device == "auto" else device)
    check_slices(cfg)
    if cfg.TEST.AUG.ENABLED:
        require_augmentable(cfg)
        check_scale_ranges(cfg)
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

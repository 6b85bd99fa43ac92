"""Augmentations beyond flip, crop and resize: what the config says of them, checked and built."""

from detectron2.data import detection_utils
from detectron2.data import transforms as T

from ..errors import ConfigError
from .albumentation import Albumentations
from .mixing import CopyPaste, MixUp, Mosaic
from .slivers import Slivers

__all__ = [
    "build_albumentations",
    "build_mixes",
    "build_slivers",
    "build_test_augmentations",
    "check_recipes",
    "large_scale_jitter",
]

_MIXES = ("MOSAIC", "COPY_PASTE", "MIXUP")


def check_recipes(cfg):
    """Raise ConfigError if recipes do not go together with the model or with each other.

    Args:
        cfg (CfgNode): the whole config.
    """
    used = _used(cfg)
    if not used:
        return
    model, inputs = cfg.MODEL, cfg.INPUT
    for key, is_on in (
        ("KEYPOINT_ON", model.KEYPOINT_ON),
        ("LOAD_PROPOSALS", model.LOAD_PROPOSALS),
    ):
        if is_on:
            raise ConfigError(f"INPUT.{used[0]} does not go together with MODEL.{key}.")
    only_objects = [key for key in used if key in _MIXES]
    if model.META_ARCHITECTURE == "SemanticSegmentor" and only_objects:
        raise ConfigError(
            f"INPUT.{only_objects[0]} is for models that find objects; a SemanticSegmentor has "
            "INPUT.LSJ and ALBUMENTATIONS."
        )
    needs_pixels = [
        key for key in used if key in ("MOSAIC", "COPY_PASTE", "MIXUP", "ALBUMENTATIONS")
    ]
    if model.MASK_ON and needs_pixels and inputs.MASK_FORMAT != "bitmask":
        raise ConfigError(
            f"INPUT.{needs_pixels[0]} with MODEL.MASK_ON cuts masks pixel by pixel: set "
            "INPUT.MASK_FORMAT bitmask."
        )
    for key in ("LSJ.SCALE", "MOSAIC.SCALE", "MOSAIC.CENTER"):
        section, name = key.split(".")
        low, high = inputs[section][name]
        if low > high:
            raise ConfigError(f"INPUT.{key} is {(low, high)}; the smaller number comes first.")
    if inputs.ALBUMENTATIONS and inputs.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(
            f"INPUT.ALBUMENTATIONS is for INPUT.FORMAT RGB or BGR, not {inputs.FORMAT}."
        )


def _used(cfg):
    """Names of the recipes that are on (list[str])."""
    used = [key for key in ("LSJ", *_MIXES) if cfg.INPUT[key].ENABLED]
    return [*used, "ALBUMENTATIONS"] if cfg.INPUT.ALBUMENTATIONS else used


def large_scale_jitter(cfg):
    """Augmentations (list[Augmentation]) of INPUT.LSJ: a resize and a crop.

    An image that is smaller than the crop is not padded, as ViTDet's is: batches are padded anyway,
    and boxes of learned proposals are relative to the size of the image.
    """
    height, width = cfg.INPUT.LSJ.SIZE
    resize = T.ResizeScale(*cfg.INPUT.LSJ.SCALE, height, width)
    return [resize, T.FixedSizeCrop((height, width), pad=False)]


def build_test_augmentations(cfg):
    """Augmentations (list[Augmentation]) of images in evaluation and demo: the resize to the test
    size, or nothing with TEST.SLICES, which resizes each slice."""
    if cfg.TEST.SLICES.ENABLED:
        return []
    return detection_utils.build_augmentation(cfg, is_train=False)


def build_mixes(cfg):
    """The mixes (list) of :mod:`~sparsercnn.data.mixing` that are on, in the order of their use."""
    inputs, mixes = cfg.INPUT, []
    if inputs.MOSAIC.ENABLED:
        mosaic = inputs.MOSAIC
        mixes.append(Mosaic(mosaic.PROB, tuple(mosaic.CENTER), tuple(mosaic.SCALE)))
    if inputs.COPY_PASTE.ENABLED:
        mixes.append(CopyPaste(inputs.COPY_PASTE.PROB, inputs.COPY_PASTE.SHARE))
    if inputs.MIXUP.ENABLED:
        mixes.append(MixUp(inputs.MIXUP.PROB, inputs.MIXUP.ALPHA))
    return mixes


def build_albumentations(cfg):
    """The Albumentations of INPUT.ALBUMENTATIONS; None if there are none."""
    if not cfg.INPUT.ALBUMENTATIONS:
        return None
    return Albumentations(cfg.INPUT.ALBUMENTATIONS, cfg.INPUT.FORMAT, cfg.INPUT.SLIVERS.MIN_VISIBLE)


def build_slivers(cfg):
    """The Slivers of INPUT.SLIVERS; None if no recipe is on."""
    if not _used(cfg):
        return None
    return Slivers(cfg.INPUT.SLIVERS.MIN_SIDE, cfg.INPUT.SLIVERS.MIN_VISIBLE)

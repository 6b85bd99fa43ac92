"""Semantic segmentation with several scales, flips and sliding windows (DANet, section 4).

Dimension letters: K classes; H, W size of the image from the loader.
"""

import torch.nn.functional as F
from detectron2.config import configurable
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ...errors import ConfigError
from ..windows import window_slices

__all__ = ["SemSegInference", "check_sem_seg_test", "with_sem_seg_inference"]


def with_sem_seg_inference(cfg, model):
    """Wrap `model` in :class:`SemSegInference` if TEST.SEM_SEG asks for it.

    Args:
        cfg (CfgNode): the whole config.
        model (nn.Module): of any meta-architecture; only a `SemanticSegmentor` is wrapped.

    Returns:
        nn.Module: `model` or its wrapper, with the same interface.
    """
    sem_seg = cfg.TEST.SEM_SEG
    is_on = tuple(sem_seg.SCALES) != (1.0,) or sem_seg.FLIP or len(sem_seg.CROP_SIZE) > 0
    if cfg.MODEL.META_ARCHITECTURE != "SemanticSegmentor" or not is_on:
        return model
    return SemSegInference(cfg, model)


def check_sem_seg_test(cfg):
    """Raise the ConfigError that :class:`SemSegInference` raises for an invalid TEST.SEM_SEG."""
    sem_seg = cfg.TEST.SEM_SEG
    _check(tuple(sem_seg.SCALES), tuple(sem_seg.CROP_SIZE), tuple(sem_seg.STRIDE))


class SemSegInference(nn.Module):
    """A segmentor with test-time augmentation, called like the segmentor itself.

    Class probabilities (softmax) are averaged over scales, mirror images and windows; unlike
    logits, they are comparable.
    """

    @configurable
    def __init__(self, model, *, scales=(1.0,), flip=False, crop_size=None, stride=None):
        """
        Args:
            model (nn.Module): a `SemanticSegmentor`.
            scales (sequence[float]): factors on the size of the loader's image.
            flip (bool): also segment the mirror image.
            crop_size (tuple[int, int]): height and width of the windows that cover a larger
                image; None: images are segmented whole.
            stride (tuple[int, int]): vertical and horizontal distance of windows, at most
                `crop_size`; None: two thirds of it.

        Raises:
            ConfigError: a scale, size or stride is not positive, or `stride` is larger than
                `crop_size` or given without it.
        """
        super().__init__()
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.train(self.model.training)
        _check(scales, crop_size, stride)
        if crop_size is not None:
            stride = stride or tuple(max(size * 2 // 3, 1) for size in crop_size)
        self.scales = scales
        self.flip = flip
        self.crop_size = crop_size
        self.stride = stride

    @classmethod
    def from_config(cls, cfg, model):
        sem_seg = cfg.TEST.SEM_SEG
        return {
            "model": model,
            "scales": tuple(sem_seg.SCALES),
            "flip": sem_seg.FLIP,
            "crop_size": tuple(sem_seg.CROP_SIZE) or None,
            "stride": tuple(sem_seg.STRIDE) or None,
        }

    def forward(self, batched_inputs):
        """As `SemanticSegmentor.forward` in evaluation, with probabilities instead of logits.

        Args:
            batched_inputs (list[dict]): per image "image", (3, H, W), in the model's channel order,
                0 to 255, and optionally "height" and "width" of the result.

        Returns:
            list[dict]: per image ``{"sem_seg": Tensor}``, (K, height, width).
        """
        return [{"sem_seg": self._one_image(x)} for x in batched_inputs]

    def _one_image(self, dataset_dict):
        image = dataset_dict["image"].to(self.model.device).float()
        H, W = image.shape[-2:]
        size = (dataset_dict.get("height", H), dataset_dict.get("width", W))
        results = []
        for scale in self.scales:
            scaled = (max(round(H * scale), 1), max(round(W * scale), 1))
            resized = image if scaled == (H, W) else _resize(image, scaled)
            results.append(_resize(self._segment(resized), size))
        return sum(results) / len(results)

    def _segment(self, image):
        """Mean probabilities (K, h, w) of an image (3, h, w), over windows and mirror images."""
        height, width = image.shape[-2:]
        crop_size = self.crop_size or (height, width)
        total, count = None, image.new_zeros(height, width)
        for rows, columns in window_slices((height, width), crop_size, self.stride or (1, 1)):
            window = (..., rows, columns)
            probabilities = self._probabilities(image[window])
            if total is None:  # K is known only from the output
                total = image.new_zeros(len(probabilities), height, width)
            total[window] += probabilities
            count[window] += 1
        return total / count

    def _probabilities(self, image):
        versions = [image, image.flip(-1)] if self.flip else [image]
        outputs = self.model([{"image": version} for version in versions])
        probabilities = [output["sem_seg"].float().softmax(dim=0) for output in outputs]
        if self.flip:
            return (probabilities[0] + probabilities[1].flip(-1)) / 2
        return probabilities[0]


def _resize(x, size):
    """Bilinear interpolation with antialiasing, (C, h, w) to (C, *size)."""
    return F.interpolate(x[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


def _check(scales, crop_size, stride):
    if not scales or min(scales) <= 0:
        raise ConfigError(f"TEST.SEM_SEG.SCALES must be positive factors, got {scales}.")
    for key, value in (("CROP_SIZE", crop_size), ("STRIDE", stride)):
        if value and (len(value) != 2 or min(value) < 1):
            raise ConfigError(
                f"TEST.SEM_SEG.{key} must be two positive numbers of pixels, vertical and "
                f"horizontal, got {value}."
            )
    if stride and not crop_size:
        raise ConfigError(
            f"TEST.SEM_SEG.STRIDE {stride} has no effect without CROP_SIZE; set CROP_SIZE, or "
            "STRIDE to ()."
        )
    if stride and any(step > size for step, size in zip(stride, crop_size, strict=True)):
        raise ConfigError(
            f"TEST.SEM_SEG.STRIDE {stride} must not be larger than CROP_SIZE {crop_size}: pixels "
            "between windows would be left out."
        )

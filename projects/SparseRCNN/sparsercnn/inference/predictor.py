"""Prediction on images, exactly as in evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils
from detectron2.data.transforms import AugmentationList
from PIL import Image

from ..data.recipes import build_test_augmentations
from ..errors import ConfigError, ImageError
from ..image_files import load_image, resize_for_model
from ..modeling import SparseRCNN
from .class_names import ClassNames, choose_class_names
from .detections import make_result
from .images import as_pil
from .loading import load_model

if TYPE_CHECKING:
    from detectron2.data.transforms import Augmentation

    from .detections import Detections, Segmentation

    Image_ = str | os.PathLike[str] | np.ndarray | Image.Image
    Found = Detections | Segmentation
    Threshold = float | Mapping[str, float]

__all__ = ["ImageError", "Predictor"]


class Predictor:
    """A model with its weights, called with images.

    Reading, channel order and resizing are those of the data loader in evaluation: the same file
    gives the same detections.

    Attributes:
        model (nn.Module): in evaluation mode.
        labels (ClassNames): names and ids of its classes.
    """

    @configurable
    def __init__(
        self,
        *,
        model: torch.nn.Module,
        augmentations: Sequence[Augmentation],
        input_format: str = "BGR",
        labels: ClassNames | None = None,
    ) -> None:
        """
        Args:
            model (nn.Module): any of detectron2's meta-architectures.
            augmentations (list[Augmentation]): augmentations of evaluation, that is, resizing.
            input_format (str): channel order that the model expects, as INPUT.FORMAT.
            labels (ClassNames): names of the classes; None: classes are named by number.
        """
        self.model = model.eval()
        self.augmentations = AugmentationList(augmentations)
        self.input_format = input_format
        self.labels = labels or ClassNames()

    @classmethod
    def from_config(cls, cfg, allow_unsafe=False):
        """
        Args:
            cfg (CfgNode): the whole config; MODEL.WEIGHTS must hold all weights of the model.
            allow_unsafe (bool): load any pickle, which may run code.

        Raises:
            CheckpointError: see :func:`~sparsercnn.inference.loading.load_model`.
        """
        model, description = load_model(cfg, allow_unsafe)
        return {
            "model": model,
            "augmentations": build_test_augmentations(cfg),
            "input_format": cfg.INPUT.FORMAT,
            "labels": choose_class_names(cfg, description),
        }

    @property
    def num_stages(self) -> int:
        """int: the number of results that :meth:`stages` gives; 0 for a model without stages."""
        return len(self.model.head.head_series) if isinstance(self.model, SparseRCNN) else 0

    @overload
    def __call__(
        self,
        images: Image_,
        *,
        threshold: Threshold = ...,
        channels: str = ...,
        batch_size: int = ...,
    ) -> Found: ...

    @overload
    def __call__(
        self,
        images: Sequence[Image_],
        *,
        threshold: Threshold = ...,
        channels: str = ...,
        batch_size: int = ...,
    ) -> list[Found]: ...

    def __call__(
        self,
        images: Image_ | Sequence[Image_],
        *,
        threshold: Threshold = 0.0,
        channels: str = "RGB",
        batch_size: int = 8,
    ) -> Found | list[Found]:
        """Run the model on an image or on a list of them.

        The images of a list that have the same size for the model are computed together, with the
        results that they have one by one.

        Args:
            images (str | Path | ndarray | PIL.Image.Image | list): an image, or a list or tuple of
                images: a file, rotated according to its EXIF data; an array of uint8, (H, W, 3) in
                the order of `channels`, (H, W) or (H, W, 1) for grey, or (H, W, 4), whose alpha is
                ignored; or an image of Pillow, treated as if read from a file.
            threshold (float | Mapping[str, float]): lowest score of detections that are returned:
                for all classes, or for each by its name, such as from
                :func:`~sparsercnn.inference.thresholds.read_thresholds`.
            channels (str): "RGB", or "BGR" for arrays of OpenCV; of arrays alone.
            batch_size (int): images of a list that are in memory and computed at a time.

        Returns:
            Detections | Segmentation: of an image; a list of them for a list.

        Raises:
            ImageError: an image cannot be read or has an unsuitable type, shape or size.
            ConfigError: `threshold` lacks a class of the model, or `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
        if not isinstance(images, (list, tuple)):
            return self([images], threshold=threshold, channels=channels)[0]
        results = []
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            arrays = [self._to_array(image, channels) for image in chunk]
            for output, image, array in zip(self._run(arrays), chunk, arrays, strict=True):
                results.append(self._make_result(output, image, array).above(threshold))
        return results

    def stages(
        self, image: Image_, *, threshold: Threshold = 0.0, channels: str = "RGB"
    ) -> list[Detections]:
        """The detections of each stage of an iterative head, as if it were the last one.

        Args:
            image, threshold, channels: one image, see :meth:`__call__`.

        Returns:
            list[Detections]: one per stage; the last is that of :meth:`__call__`.

        Raises:
            ConfigError: the model has no stages, or looks at slices (TEST.SLICES).
            ImageError: see :meth:`__call__`.
        """
        if not self.num_stages:
            raise ConfigError(
                f"{type(self.model).__name__} has no stages; only a checkpoint of a model with "
                "META_ARCHITECTURE SparseRCNN has, without TEST.SLICES."
            )
        array = self._to_array(image, channels)
        outputs = self._run([array], all_stages=True)[0]
        return [self._make_result(x, image, array).above(threshold) for x in outputs]

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Read an image file, rotated according to its EXIF data.

        Args:
            path (str): the file.

        Returns:
            ndarray: (H, W, C) in the model's channel order, uint8 unless that is YUV.

        Raises:
            ImageError: the file cannot be read.
        """
        return load_image(path, self.input_format)

    def to_rgb(self, image: np.ndarray) -> np.ndarray:
        """Convert an image from the model's channel order to RGB, for drawing.

        Args:
            image (ndarray): as :meth:`read` returns.

        Returns:
            ndarray: (H, W, 3), uint8.
        """
        rgb = detection_utils.convert_image_to_rgb(image, self.input_format)
        return np.ascontiguousarray(rgb, dtype=np.uint8)

    def predict(self, image: np.ndarray) -> dict[str, Any]:
        """Run the model on one image that is in its channel order already.

        Args:
            image (ndarray): (H, W, C) in the model's channel order, as :meth:`read` returns.

        Returns:
            dict: the model's output, on the CPU and in the size of `image`: "instances" with
            `pred_boxes` (absolute xyxy in pixels of `image`), `scores` and `pred_classes`, or
            "sem_seg", (K, H, W).
        """
        return self._run([image])[0]

    def _to_array(self, image, channels):
        if isinstance(image, (str, os.PathLike)):
            return self.read(image)
        return detection_utils.convert_PIL_to_numpy(as_pil(image, channels), self.input_format)

    def _make_result(self, output, image, array):
        if isinstance(image, (str, os.PathLike)):
            return make_result(output, self.labels, file_name=os.fspath(image))
        file_name = getattr(image, "filename", "") if isinstance(image, Image.Image) else ""
        return make_result(output, self.labels, self.to_rgb(array), file_name or None)

    def _run(self, arrays, **options):
        """The model's outputs on the CPU, for each of `arrays` in its channel order."""
        inputs = [resize_for_model(array, self.augmentations) for array in arrays]
        by_size, outputs = {}, [None] * len(inputs)
        for number, x in enumerate(inputs):
            by_size.setdefault(x["image"].shape, []).append(number)
        for numbers in by_size.values():
            with torch.inference_mode():
                found = self.model([inputs[i] for i in numbers], **options)
            for i, output in zip(numbers, found, strict=True):
                outputs[i] = _to_cpu(output)
        return outputs


def _to_cpu(output):
    if isinstance(output, list):  # of all stages
        return [_to_cpu(x) for x in output]
    return {key: x.to("cpu") if hasattr(x, "to") else x for key, x in output.items()}

"""Prediction on single images, exactly as in evaluation."""

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils
from detectron2.data.transforms import AugInput, AugmentationList
from detectron2.modeling import build_model
from PIL import Image

from ..data.image_check import UNREADABLE
from ..engine.checkpoint import load_for_inference
from ..errors import ImageError
from ..export import is_exported, load_exported_for
from .class_names import ClassNames, choose_class_names
from .optimization import prepare_for_inference

__all__ = ["ImageError", "Predictor"]


class Predictor:
    """A model with its weights, for single images.

    Reading, channel order and resizing are those of the data loader in evaluation: the same file
    gives the same detections.

    Attributes:
        model (nn.Module): in evaluation mode.
        labels (ClassNames): names and ids of its classes.
    """

    @configurable
    def __init__(self, *, model, augmentations, input_format="BGR", labels=None):
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
            cfg (CfgNode): the whole config; MODEL.WEIGHTS must hold all weights of the model, or
                be an exported file.
            allow_unsafe (bool): load any pickle, which may run code.

        Raises:
            CheckpointError: see :func:`load_for_inference`.
            ExportError: see :func:`~sparsercnn.export.load_exported_for`.
        """
        if is_exported(cfg.MODEL.WEIGHTS):
            model = load_exported_for(cfg)
            description = model.metadata.classes
        else:
            model = build_model(cfg)
            description = load_for_inference(model, cfg.MODEL.WEIGHTS, allow_unsafe)
        return {
            "model": prepare_for_inference(cfg, model),
            "augmentations": detection_utils.build_augmentation(cfg, is_train=False),
            "input_format": cfg.INPUT.FORMAT,
            "labels": choose_class_names(cfg, description),
        }

    def read(self, path):
        """Read an image file, rotated according to its EXIF data.

        Args:
            path (str): the file.

        Returns:
            ndarray: (H, W, C) in the model's channel order, uint8 unless that is YUV.

        Raises:
            ImageError: the file cannot be read.
        """
        try:
            return detection_utils.read_image(str(path), format=self.input_format)
        except UNREADABLE as error:
            raise ImageError(f"Cannot read {path}: {error}") from error

    def from_bgr(self, image):
        """Convert an image as read by OpenCV to the model's channel order.

        Args:
            image (ndarray): (H, W, 3), uint8, BGR.

        Returns:
            ndarray: as :meth:`read` returns.
        """
        rgb = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
        return detection_utils.convert_PIL_to_numpy(rgb, self.input_format)

    def to_rgb(self, image):
        """Convert an image from the model's channel order to RGB, for drawing.

        Args:
            image (ndarray): as :meth:`read` returns.

        Returns:
            ndarray: (H, W, 3), uint8.
        """
        rgb = detection_utils.convert_image_to_rgb(image, self.input_format)
        return np.ascontiguousarray(rgb, dtype=np.uint8)

    def predict(self, image):
        """Run the model on one image.

        Args:
            image (ndarray): (H, W, C) in the model's channel order, as :meth:`read` returns.

        Returns:
            dict: the model's output, on the CPU and in the size of `image`: "instances" with
            `pred_boxes` (absolute xyxy in pixels of `image`), `scores` and `pred_classes`, or
            "sem_seg", (K, H, W).
        """
        height, width = image.shape[:2]
        resized = AugInput(image)
        self.augmentations(resized)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        with torch.inference_mode():
            output = self.model([{"image": tensor, "height": height, "width": width}])[0]
        return {key: x.to("cpu") if hasattr(x, "to") else x for key, x in output.items()}

    def __call__(self, image):
        """Run the model on an image file, or on an image as read by OpenCV.

        Args:
            image (str | Path | ndarray): a file, or (H, W, 3), uint8, BGR.

        Returns:
            dict: see :meth:`predict`.

        Raises:
            ImageError: see :meth:`read`.
        """
        is_array = isinstance(image, np.ndarray)
        return self.predict(self.from_bgr(image) if is_array else self.read(image))

"""Mapping of a data set's records to inputs of a semantic segmentor."""

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from ..errors import ConfigError, DataError
from ..image_files import UNREADABLE, read_image
from .image_check import leave_out
from .label_map import label_map_problem, read_label_map
from .recipes import build_albumentations, large_scale_jitter
from .semseg import IGNORE_LABEL

__all__ = ["SemSegDatasetMapper", "build_sem_seg_augmentations"]


class SemSegDatasetMapper:
    """Maps a record of a data set to an input of detectron2's `SemanticSegmentor`.

    Differences from detectron2's mapper: label maps with a palette are read as indices, not as the
    brightness of their colours; cropping follows resizing; and errors name the file.

    ``SemSegDatasetMapper(cfg, is_train=True)`` builds it from a config.
    """

    @configurable
    def __init__(
        self,
        is_train,
        *,
        augmentations,
        image_format,
        num_classes,
        ignore_label=IGNORE_LABEL,
        skip_invalid=False,
        albumentations=None,
    ):
        """
        Args:
            is_train (bool): True: read label maps.
            augmentations (list[Augmentation]): for image and label map.
            image_format (str): channel order, as INPUT.FORMAT.
            num_classes (int): K.
            ignore_label (int): value of ignored pixels.
            skip_invalid (bool): return None for unusable files, and log it.
            albumentations (Albumentations): applied in training, before all others.

        Raises:
            ConfigError: more than 255 classes.
        """
        if num_classes > IGNORE_LABEL:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}; it must be at most "
                f"{IGNORE_LABEL}, since label maps have 8 bits and {IGNORE_LABEL} marks ignored "
                "pixels."
            )
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.skip_invalid = skip_invalid
        self.albumentations = albumentations

    @classmethod
    def from_config(cls, cfg, is_train=True):
        return {
            "is_train": is_train,
            "augmentations": build_sem_seg_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "skip_invalid": cfg.DATASETS.SKIP_INVALID and is_train,
            "albumentations": build_albumentations(cfg) if is_train else None,
        }

    def __call__(self, dataset_dict):
        """
        Args:
            dataset_dict (dict): a record with "file_name" and "sem_seg_file_name".

        Returns:
            dict: the record with "image", (C, H, W) uint8 in the channel order of INPUT.FORMAT, and
            in training "sem_seg", (H, W) int64. None for an unusable record, if `skip_invalid`.

        Raises:
            DataError: a file cannot be read, image and label map differ in size, or the label map
                holds a value that is not a class.
        """
        try:
            return self._map(dict(dataset_dict))
        except UNREADABLE as error:
            leave_out(dataset_dict, error, self.skip_invalid)
            return None

    def _map(self, dataset_dict):
        image = read_image(dataset_dict["file_name"], self.image_format)
        utils.check_image_size(dataset_dict, image)
        labels = self._read_labels(dataset_dict, image) if self.is_train else None
        if self.is_train and self.albumentations is not None:
            image, labels = self.albumentations.on_labels(image, labels)
        augmented = T.AugInput(image, sem_seg=labels)
        self.augmentations(augmented)
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        dataset_dict["image"] = torch.as_tensor(pixels)
        if self.is_train:
            dataset_dict["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype(np.int64))
        return dataset_dict

    def _read_labels(self, dataset_dict, image):
        path = dataset_dict["sem_seg_file_name"]
        labels = read_label_map(path)
        problem = label_map_problem(labels, self.num_classes, self.ignore_label, image.shape[:2])
        if problem:
            raise DataError(f"its label map {path} {problem}")
        return labels.astype(np.uint8)  # the dtype that augmentations recognise as labels


def build_sem_seg_augmentations(cfg, is_train):
    """
    Args:
        cfg (CfgNode): the whole config; INPUT is read.
        is_train (bool): True: random resize, crop if enabled, and flip. False: only a resize.

    Returns:
        list[Augmentation]: in this order; a crop after the resize has CROP.SIZE at every scale.
        With INPUT.LSJ, its resize and crop take the place of these two.
    """
    resize, *flip = utils.build_augmentation(cfg, is_train)
    if is_train and cfg.INPUT.LSJ.ENABLED:
        return [*large_scale_jitter(cfg), *flip]
    crop = []
    if is_train and cfg.INPUT.CROP.ENABLED:
        crop = [T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)]
    return [resize, *crop, *flip]

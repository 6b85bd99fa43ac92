"""Mapping of a data set's records to inputs of a detector."""

import copy
from importlib.util import find_spec

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from ..errors import DataError
from ..image_files import UNREADABLE, read_image
from .image_check import leave_out
from .label_map import read_label_map

__all__ = ["SparseRCNNDatasetMapper", "build_train_augmentations"]

# Shorter sides to resize to before a crop, as in DETR and the original Sparse R-CNN.
_SIZES_BEFORE_CROP = (400, 500, 600)


class SparseRCNNDatasetMapper(DatasetMapper):
    """Detectron2's mapper with DETR's random crop, and errors that name the file.

    In training, an image is randomly flipped, with probability 1/2 resized and cropped (with
    INPUT.CROP.ENABLED), and resized to one of INPUT.MIN_SIZE_TRAIN. In evaluation it is resized
    to INPUT.MIN_SIZE_TEST. Crowd annotations and objects outside of the crop are left out; an
    image without remaining objects is kept. Masks are kept with MODEL.MASK_ON.

    ``SparseRCNNDatasetMapper(cfg, is_train=True)`` builds it from a config.
    """

    @configurable
    def __init__(self, is_train, *, skip_invalid=False, **kwargs):
        """
        Args:
            is_train (bool): True: apply random augmentations and add ground truth.
            skip_invalid (bool): return None for an unusable image, and log it.
            kwargs: see :class:`detectron2.data.DatasetMapper`.
        """
        super().__init__(is_train, **kwargs)
        self.skip_invalid = skip_invalid
        self.num_skipped = 0

    @classmethod
    def from_config(cls, cfg, is_train=True):
        """
        Raises:
            ImportError: the config asks for cropping of masks, and shapely is not installed.
        """
        if is_train and cfg.MODEL.MASK_ON and cfg.INPUT.CROP.ENABLED and not find_spec("shapely"):
            raise ImportError(
                "INPUT.CROP.ENABLED with MODEL.MASK_ON crops polygons, which needs the package "
                "shapely: pip install shapely."
            )
        options = super().from_config(cfg, is_train)
        if is_train:
            options["augmentations"] = build_train_augmentations(cfg)
        options["skip_invalid"] = cfg.DATASETS.SKIP_INVALID and is_train
        return options

    def __call__(self, dataset_dict: dict) -> dict | None:
        """
        Args:
            dataset_dict (dict): a record in detectron2's format.

        Returns:
            dict: the record, without "annotations", with "image", (C, H, W) uint8 in the channel
            order of INPUT.FORMAT, and in training "instances", with `gt_boxes` in absolute xyxy of
            that image, `gt_classes` and, with masks, `gt_masks`. None for an unusable image, if
            `skip_invalid`.

        Raises:
            DataError: the image cannot be read, or does not have the annotated size.
        """
        try:
            return self._map(copy.deepcopy(dataset_dict))
        # Detectron2 raises ValueErrors for images of another size than annotated, and for masks.
        except UNREADABLE as error:
            self.num_skipped += 1
            note = f" ({self.num_skipped} times in this worker)"
            leave_out(dataset_dict, error, self.skip_invalid, note)
            return None

    def _map(self, dataset_dict):
        """Detectron2's mapping, with our reading of images and label maps."""
        image = read_image(dataset_dict["file_name"], self.image_format)
        utils.check_image_size(dataset_dict, image)
        label_map = dataset_dict.pop("sem_seg_file_name", None)
        labels = None if label_map is None else _read_labels(label_map)
        augmented = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(augmented)
        size = augmented.image.shape[:2]
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        dataset_dict["image"] = torch.as_tensor(pixels)
        if labels is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            utils.transform_proposals(
                dataset_dict, size, transforms, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, size)
        return dataset_dict

    def _transform_annotations(self, dataset_dict, transforms, image_shape):
        if all(x.get("iscrowd", 0) for x in dataset_dict["annotations"]):
            # Detectron2 would fail: it recomputes boxes from masks, and there are none.
            del dataset_dict["annotations"]
            dataset_dict["instances"] = utils.annotations_to_instances([], image_shape)
        else:
            super()._transform_annotations(dataset_dict, transforms, image_shape)


def _read_labels(path):
    labels = read_label_map(path)
    if labels.min() < 0 or labels.max() > 255:
        raise DataError(f"its label map {path} holds values that are not from 0 to 255")
    return labels.astype(np.uint8)  # the dtype that augmentations recognise as labels


def build_train_augmentations(cfg):
    """
    Args:
        cfg (CfgNode): the whole config; INPUT is read.

    Returns:
        list[Augmentation]: flip, random crop if enabled, resize.
    """
    resize, *flip = utils.build_augmentation(cfg, is_train=True)
    crop = []
    if cfg.INPUT.CROP.ENABLED:
        smaller = T.ResizeShortestEdge(_SIZES_BEFORE_CROP, sample_style="choice")
        region = T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
        crop = [T.RandomApply(T.AugmentationList([smaller, region]), prob=0.5)]
    return [*flip, *crop, resize]

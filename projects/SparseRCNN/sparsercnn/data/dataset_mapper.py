"""Mapping of a data set's records to inputs of a detector."""

import copy
from importlib.util import find_spec

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from ..errors import ConfigError, DataError
from ..image_files import UNREADABLE, read_image
from .image_check import leave_out
from .label_map import read_label_map
from .recipes import (
    build_albumentations,
    build_mixes,
    build_slivers,
    build_test_augmentations,
    large_scale_jitter,
)
from .segmentations import mask_problem
from .slivers import LOST, tracked_instances

__all__ = ["SparseRCNNDatasetMapper", "build_train_augmentations"]

# Shorter sides to resize to before a crop, as in DETR and the original Sparse R-CNN.
_SIZES_BEFORE_CROP = (400, 500, 600)
_ATTEMPTS = 100


class SparseRCNNDatasetMapper(DatasetMapper):
    """Detectron2's mapper with DETR's random crop, and errors that name the file.

    In training, an image is randomly flipped, with probability 1/2 resized and cropped (with
    INPUT.CROP.ENABLED), and resized to one of INPUT.MIN_SIZE_TRAIN. In evaluation it is resized
    to INPUT.MIN_SIZE_TEST. Crowd annotations and objects outside of the crop are left out; an
    image without remaining objects is kept. Masks are kept with MODEL.MASK_ON.

    ``SparseRCNNDatasetMapper(cfg, is_train=True)`` builds it from a config. The recipes
    INPUT.MOSAIC, COPY_PASTE and MIXUP also need the records from which other images are drawn::

        mapper = SparseRCNNDatasetMapper(cfg, is_train=True)
        mapper.others = records  # those of the loader

    Attributes:
        others (sequence[dict]): such records.
    """

    @configurable
    def __init__(
        self,
        is_train,
        *,
        skip_invalid=False,
        mixes=(),
        albumentations=None,
        slivers=None,
        with_pasted_masks=False,
        **kwargs,
    ):
        """
        Args:
            is_train (bool): True: apply random augmentations and add ground truth.
            skip_invalid (bool): return None for an unusable image, and log it.
            mixes (sequence[callable]): of :mod:`~sparsercnn.data.mixing`.
            albumentations (Albumentations): applied to each image before all others.
            slivers (Slivers): drops what is left of objects; with it, samples have the numbers of
                those that are lost. None: objects of which nothing is left are dropped.
            with_pasted_masks (bool): mixes need masks, also if the model has none: those of the
                annotations, of boxes without one the whole box.
            kwargs: see :class:`detectron2.data.DatasetMapper`.
        """
        super().__init__(is_train, **kwargs)
        self.skip_invalid = skip_invalid
        self.mixes = tuple(mixes)
        self.albumentations = albumentations
        self.slivers = slivers
        self.with_pasted_masks = with_pasted_masks
        self.others = None
        self.num_skipped = 0

    @classmethod
    def from_config(cls, cfg, is_train=True):
        """
        Raises:
            ImportError: the config asks for cropping of masks, and shapely is not installed.
        """
        crops = cfg.INPUT.CROP.ENABLED or cfg.INPUT.LSJ.ENABLED
        has_masks = cfg.MODEL.MASK_ON or cfg.INPUT.COPY_PASTE.ENABLED
        if is_train and has_masks and crops and not find_spec("shapely"):
            raise ImportError(
                "INPUT.CROP.ENABLED and LSJ.ENABLED with MODEL.MASK_ON or INPUT.COPY_PASTE.ENABLED "
                "crop polygons, which needs the package shapely: pip install shapely."
            )
        options = super().from_config(cfg, is_train)
        if not is_train:
            options["augmentations"] = build_test_augmentations(cfg)
        if is_train:
            options["augmentations"] = build_train_augmentations(cfg)
            options["mixes"] = build_mixes(cfg)
            options["albumentations"] = build_albumentations(cfg)
            options["slivers"] = build_slivers(cfg)
            options["with_pasted_masks"] = cfg.INPUT.COPY_PASTE.ENABLED
        options["skip_invalid"] = cfg.DATASETS.SKIP_INVALID and is_train
        return options

    def __call__(self, dataset_dict: dict) -> dict | None:
        """
        Args:
            dataset_dict (dict): a record in detectron2's format.

        Returns:
            dict: the record, without "annotations", with "image", (C, H, W) uint8 in the channel
            order of INPUT.FORMAT, and in training "instances", with `gt_boxes` in absolute xyxy of
            that image, `gt_classes` and, with masks, `gt_masks`; with `slivers` also "num_lost",
            the numbers of objects that vanished and of slivers. None for an unusable image, if
            `skip_invalid`.

        Raises:
            DataError: the image, or one that is mixed with it, cannot be read, or does not have the
                annotated size.
            ConfigError: there are mixes, but no `others`.
        """
        sample = self._map_or_none(dataset_dict)
        if sample is None or self.slivers is None or "instances" not in sample:
            return sample
        for mix in self.mixes:
            sample = mix(sample, self._draw)
        left, (vanished, slivers) = self.slivers.drop(sample["instances"])
        if left.has("gt_masks") and not self.use_instance_mask:
            left.remove("gt_masks")
        sample["instances"] = left
        sample[LOST] = (vanished + sample[LOST], slivers)
        return sample

    def _draw(self):
        """The sample of a random other image, not mixed."""
        if not self.others:
            raise ConfigError(
                "INPUT.MOSAIC, COPY_PASTE and MIXUP need other images: set the mapper's attribute "
                "`others` to the records of the loader. build_train_loader does so."
            )
        for _ in range(_ATTEMPTS):
            record = self.others[np.random.randint(len(self.others))]
            sample = self._map_or_none(record)
            if sample is not None:
                return sample
        raise DataError(
            f"{_ATTEMPTS} images in a row were unusable; the log names them. Correct the data."
        )

    def _map_or_none(self, dataset_dict):
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
        if self.slivers is not None and "annotations" in dataset_dict:
            image = self._prepare(dataset_dict, image)
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

    def _prepare(self, dataset_dict, image):
        """The image with INPUT.ALBUMENTATIONS, and its annotations with what mixes need."""
        if "sem_seg_file_name" in dataset_dict and (self.mixes or self.albumentations):
            raise ConfigError(
                "INPUT.ALBUMENTATIONS, MOSAIC, COPY_PASTE and MIXUP do not transform the label "
                "maps that these records have beside their objects; switch them off."
            )
        annotations = [x for x in dataset_dict["annotations"] if not x.get("iscrowd", 0)]
        dataset_dict[LOST] = 0
        draws_masks = self.with_pasted_masks or self.albumentations is not None
        if draws_masks and not self.use_instance_mask:  # which has had them checked when read
            for annotation in annotations:
                segmentation = annotation.get("segmentation")
                if segmentation and mask_problem(segmentation, *image.shape[1::-1]):
                    del annotation["segmentation"]
        if self.with_pasted_masks:
            for annotation in annotations:
                annotation["segmentation"] = annotation.get("segmentation") or _outline(annotation)
        if self.albumentations is not None:
            image, annotations, dataset_dict[LOST] = self.albumentations.on_objects(
                image, annotations
            )
        dataset_dict["annotations"] = annotations
        return image

    def _transform_annotations(self, dataset_dict, transforms, image_shape):
        if self.slivers is not None:
            masks = self.instance_mask_format if self.use_instance_mask else None
            dataset_dict["instances"] = tracked_instances(
                dataset_dict.pop("annotations"),
                transforms,
                image_shape,
                "bitmask" if self.with_pasted_masks else masks,
            )
        elif all(x.get("iscrowd", 0) for x in dataset_dict["annotations"]):
            # Detectron2 would fail: it recomputes boxes from masks, and there are none.
            del dataset_dict["annotations"]
            dataset_dict["instances"] = utils.annotations_to_instances([], image_shape)
        else:
            super()._transform_annotations(dataset_dict, transforms, image_shape)


def _outline(annotation):
    """The polygon of a box."""
    x0, y0, x1, y1 = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


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
        list[Augmentation]: flip, random crop if enabled, resize; or flip and large-scale jitter.
    """
    resize, *flip = utils.build_augmentation(cfg, is_train=True)
    if cfg.INPUT.LSJ.ENABLED:
        return [*flip, *large_scale_jitter(cfg)]
    crop = []
    if cfg.INPUT.CROP.ENABLED:
        smaller = T.ResizeShortestEdge(_SIZES_BEFORE_CROP, sample_style="choice")
        region = T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
        crop = [T.RandomApply(T.AugmentationList([smaller, region]), prob=0.5)]
    return [*flip, *crop, resize]

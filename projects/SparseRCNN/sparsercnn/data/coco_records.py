"""Records of a COCO file in detectron2's format, each made when it is asked for."""

import copy
import inspect
import itertools
import json
import logging
import os
from dataclasses import dataclass

import numpy as np
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from torch.utils.data import ConcatDataset, Dataset

from ..errors import DataError, MissingFileError
from .coco_cache import open_coco
from .coco_scan import BITMASK, BROKEN, NO_MASK
from .segmentations import clean

__all__ = ["CocoFile", "CocoRecords", "as_dataset", "coco_records", "load_coco"]

_KEYS = ("iscrowd", "bbox", "keypoints", "category_id")  # as in detectron2's load_coco_json
_EXTRA_KEYS = ("id", "category_name")
_SOURCE = "coco_records"  # key of an outline: the CocoRecords, and the number of its record


@dataclass
class CocoFile:
    """The function that loads a data set which is just one COCO file, for detectron2's catalog."""

    name: str  # of the data set, whose metadata has its classes
    json_file: str
    image_root: str
    original: str = None  # the file of which `json_file` is a `completed_copy`
    if_missing: str = None  # what to do if there is no `json_file`

    def __call__(self):
        self.check()
        return load_coco(self.name, self.json_file, self.image_root)

    def check(self):
        """Raise MissingFileError with the remedy, if there is one."""
        if self.if_missing and not os.path.exists(self.json_file):
            raise MissingFileError(f"{self.json_file} is missing; {self.if_missing}.")


def load_coco(name, json_file, image_root):
    """Records of an annotation file, for a data set whose metadata has its classes.

    Args:
        name (str): the registered data set.
        json_file (str): annotation file.
        image_root (str): folder of the images.

    Returns:
        list[dict]: see :class:`CocoRecords`, with the "id" of annotations.
    """
    return list(_of_entry(name, json_file, image_root))


def coco_records(name):
    """Records of a data set whose records depend on nothing but a COCO file.

    Args:
        name (str): a registered data set.

    Returns:
        CocoRecords: None if the function in the catalog is neither a :class:`CocoFile` nor that of
        detectron2's ``register_coco_instances``, as for "coco_2017_train"; and for "minival" of
        COCO 2014.

    Raises:
        DataError: see :func:`~sparsercnn.data.coco_schema.read_coco`; or detectron2 cannot read
            the file for evaluation.
    """
    load = DatasetCatalog[name]
    if isinstance(load, CocoFile):
        load.check()
        return _of_entry(name, load.original or load.json_file, load.image_root)
    if getattr(load, "__qualname__", "") != "register_coco_instances.<locals>.<lambda>":
        return None
    location = inspect.getclosurevars(load).nonlocals
    path = location["json_file"]
    if "minival" in os.path.basename(path):
        return None  # of COCO 2014: some ids occur twice, for which detectron2 has an exception
    index = _open(path)
    if index.header["marked"]:
        raise DataError(
            f"{path} begins with a byte-order mark, which detectron2's evaluation cannot read. "
            "Save it without, or name it by an entry coco:ANNOTATIONS.json@IMAGE_DIR."
        )
    categories = sorted(index.header["categories"], key=lambda category: category["id"])
    indices = {category["id"]: n for n, category in enumerate(categories)}
    metadata = MetadataCatalog.get(name)
    metadata.thing_classes = [category["name"] for category in categories]
    metadata.thing_dataset_id_to_contiguous_id = indices
    return CocoRecords(index, location["image_root"], indices)


def _of_entry(name, path, image_root):
    indices = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    return CocoRecords(_open(path), image_root, indices, _EXTRA_KEYS)


def _open(path):
    path = PathManager.get_local_path(path)
    index = open_coco(path)
    logging.getLogger(__name__).info(
        f"{path}: {len(index.ends)} images, {len(index.categories)} annotations."
    )
    return index


class CocoRecords(Dataset):
    """Records in detectron2's format; they can be changed by whoever gets them.

    They are those of ``load_coco_json``, except for what that leaves out with a warning: without a
    polygon of three points, annotations keep their box. See :func:`segmentations.clean`.
    """

    def __init__(self, index, image_root, indices, extra_keys=()):
        """
        Args:
            index (CocoIndex): the file.
            image_root (str): folder of the images.
            indices (dict[int, int]): id of a category in the file -> class. An annotation of any
                other category gets a field "unknown_category", with that category's name or id.
            extra_keys (sequence[str]): further keys of annotations.
        """
        self.index = index
        self.image_root = image_root
        self.indices = indices
        self.keys = (*_KEYS, *extra_keys)

    def __len__(self):
        return len(self.index.ends)

    def __getitem__(self, number):
        begin = self.index.ends[number - 1] if number else 0
        try:
            record = json.loads(self.index.lines[begin : self.index.ends[number]].tobytes())
        except ValueError as error:
            file = getattr(self.index.lines, "filename", "memory")
            raise DataError(
                f"{file}, image {number + 1} is damaged: {error}. Delete the file and start again."
            ) from error
        record["file_name"] = os.path.join(self.image_root, record["file_name"])
        record["annotations"] = [self._object(x) for x in record["annotations"]]
        return record

    def _object(self, annotation):
        result = {key: annotation[key] for key in self.keys if key in annotation}
        segmentation = clean(annotation.get("segmentation"))
        if segmentation:
            result["segmentation"] = segmentation
        if annotation.get("keypoints"):  # detectron2 counts from the corner of pixels
            points = enumerate(annotation["keypoints"])
            result["keypoints"] = [x if n % 3 == 2 else x + 0.5 for n, x in points]
        result["bbox_mode"] = BoxMode.XYWH_ABS
        category_name = result.pop("category_name", annotation["category_id"])
        if annotation["category_id"] in self.indices:
            result["category_id"] = self.indices[annotation["category_id"]]
        else:
            result["unknown_category"] = category_name
        return result

    def outlines(self):
        """All records without what takes memory and time.

        Returns:
            list[dict]: records whose annotations have only "category_id" and "iscrowd", to look
            through and to give to :func:`as_dataset`.
        """
        index = self.index
        classes = [self.indices.get(x, x) for x in index.header["category_ids"]]
        kinds = [[{"category_id": x, "iscrowd": crowd} for crowd in (0, 1)] for x in classes]
        pairs = zip(index.categories.tolist(), index.crowds.tolist(), strict=True)
        annotations = (kinds[category][crowd] for category, crowd in pairs)
        outlines = json.loads(index.images.tobytes())
        for number, (outline, count) in enumerate(
            zip(outlines, index.counts.tolist(), strict=True)
        ):
            outline["file_name"] = os.path.join(self.image_root, outline["file_name"])
            outline["annotations"] = list(itertools.islice(annotations, count))
            outline[_SOURCE] = (self, number)
        return outlines

    def suspects(self, mask_format=None):
        """Numbers of records that may have invalid annotations.

        Args:
            mask_format (str): see :func:`sparsercnn.data.leave_out_invalid`.

        Returns:
            list[int]: all others are sure to have none.
        """
        index = self.index
        known = np.array([x in self.indices for x in index.header["category_ids"]], bool)
        suspicious = index.suspicious | ~known[index.categories]
        if mask_format:
            suspicious |= (index.kinds == NO_MASK) | (index.kinds == BROKEN)
        if mask_format == "polygon":
            suspicious |= (index.kinds == BITMASK) & ~index.crowds
        images = np.repeat(np.arange(len(self)), index.counts)
        return np.unique(images[suspicious]).tolist()


def as_dataset(records):
    """A data set that holds records in little memory, and gives each as a copy.

    Args:
        records (list[dict]): in detectron2's format, or outlines.

    Returns:
        torch.utils.data.Dataset: the whole records, in the same order.
    """
    parts = [
        DatasetFromList(list(part), copy=False) if source is None else _Part(source, list(part))
        for source, part in itertools.groupby(records, key=lambda x: x.get(_SOURCE, (None,))[0])
    ]
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


class _Part(Dataset):
    """Those records of a data set that are valid."""

    def __init__(self, source, outlines):
        self.source = source
        self.numbers = np.array([x[_SOURCE][1] for x in outlines])
        counts = source.index.counts
        # Records of which some annotations were left out are whole.
        self.changed = {
            n: {key: value for key, value in x.items() if key != _SOURCE}
            for n, x in enumerate(outlines)
            if len(x["annotations"]) < counts[self.numbers[n]]
        }

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, n):
        if n in self.changed:
            return copy.deepcopy(self.changed[n])
        return self.source[self.numbers[n]]

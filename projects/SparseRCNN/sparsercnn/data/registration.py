"""Data sets that are named by where they lie, and CrowdHuman."""

import logging
import os

from detectron2.data import DatasetCatalog

from ..errors import DataError
from .coco import complete, load_coco, read_coco, register_coco
from .files import cache_json, datasets_root
from .semseg import register_semseg
from .voc import convert_voc, voc_class_names

__all__ = ["register_crowdhuman", "register_datasets"]


def register_datasets(names):
    """Register those names that are entries and not registered yet, each under exactly its name.

    An entry is ``coco:ANNOTATIONS.json@IMAGE_DIR``; or ``voc:ROOT@SPLIT``, whose split is a file
    in ROOT/ImageSets/Main; or ``semseg:IMAGES@LABELS``, two folders. Other names are passed over.
    Each entry's annotations are read now; its images are looked at when the data set is loaded.

    Args:
        names (iterable[str]): as in DATASETS.TRAIN and DATASETS.TEST.

    Raises:
        FileNotFoundError: an annotation file or split is missing.
        DataError: an entry or an annotation file is malformed.
    """
    for name in names:
        kind, _, location = name.partition(":")
        if kind in _ENTRIES and name not in DatasetCatalog:
            _ENTRIES[kind](name, os.path.expanduser(location))


def _register_coco(name, location):
    path, separator, image_root = location.rpartition("@")
    if ".json@" in location:  # the folder's name may have another @
        path, separator, image_root = location.partition(".json@")
        path += ".json"
    if not (path and separator and image_root):
        raise DataError(f"'{name}': a COCO entry is coco:ANNOTATIONS.json@IMAGE_DIR.")
    content = read_coco(path)
    completed = complete(content)
    # What evaluation needs and the file lacks cannot be added to the user's own file.
    label = f"coco-{os.path.splitext(os.path.basename(path))[0]}"
    json_file = path if completed is content else cache_json(label, completed)

    def load():
        return load_coco(name, json_file, image_root)

    categories = sorted(content["categories"], key=lambda category: category["id"])
    register_coco(name, load, json_file, image_root, categories, annotation_file=path)


def _register_voc(name, location):
    root, separator, split = location.rpartition("@")
    if not (root and separator and split):
        raise DataError(f"'{name}': a VOC entry is voc:ROOT@SPLIT.")
    content, num_clipped = convert_voc(root, split, voc_class_names(root))
    label = f"voc-{os.path.basename(os.path.abspath(root))}-{split}"
    json_file = cache_json(label, content)
    image_root = os.path.join(root, "JPEGImages")

    def load():
        if num_clipped:
            logging.getLogger(__name__).info(f"{name}: clipped {num_clipped} boxes to their image.")
        records = load_coco(name, json_file, image_root)
        for record in records:
            stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
            record["annotation_file"] = os.path.join(root, "Annotations", f"{stem}.xml")
            for annotation in record["annotations"]:
                del annotation["id"]  # ours; the file's reader finds an object by its number
        return records

    register_coco(name, load, json_file, image_root, content["categories"])


_ENTRIES = {"coco": _register_coco, "voc": _register_voc, "semseg": register_semseg}


def register_crowdhuman(root=None):
    """Register ``CrowdHuman_train`` and ``CrowdHuman_val``; no file is opened.

    Args:
        root (str): folder with annotations/{train,val}.json, as datasets/prepare_crowdhuman.py
            writes them, and the images in CrowdHuman_{train,val}; None: ``crowdhuman`` among the
            data sets.
    """
    root = root or os.path.join(datasets_root(), "crowdhuman")
    for split in ("train", "val"):
        name = f"CrowdHuman_{split}"
        json_file = os.path.join(root, "annotations", f"{split}.json")
        image_root = os.path.join(root, name)

        def load(name=name, json_file=json_file, image_root=image_root):
            if not os.path.exists(json_file):
                raise FileNotFoundError(
                    f"{json_file} is missing; datasets/prepare_crowdhuman.py writes it."
                )
            return load_coco(name, json_file, image_root)

        categories = [{"id": 1, "name": "person"}]
        register_coco(name, load, json_file, image_root, categories, evaluator_type="crowdhuman")

"""Registration of CrowdHuman and of data sets that are named by their location."""

import logging
import os

from detectron2.data import DatasetCatalog

from ..errors import DataError
from .coco import register_coco
from .coco_cache import completed_copy, open_coco
from .coco_records import CocoFile, load_coco
from .files import cache_json, datasets_root
from .lvis import convert_lvis
from .semseg import register_semseg
from .voc import convert_voc, voc_class_names
from .yolo import convert_yolo, label_file

__all__ = ["register_crowdhuman", "register_datasets"]


def register_datasets(names):
    """Register the entries among `names` that are not registered yet, each under its own text.

    Entries are ``coco:ANNOTATIONS.json@IMAGE_DIR``, ``lvis:ANNOTATIONS.json@IMAGE_DIR``,
    ``voc:ROOT@SPLIT`` with a split from ROOT/ImageSets/Main, ``yolo:ROOT/data.yaml@SPLIT`` with a
    split that the file gives, and ``semseg:IMAGES@LABELS`` with two folders. Other names are
    ignored. Annotations are read now, images are checked when the data set is loaded.

    Args:
        names (iterable[str]): as in DATASETS.TRAIN and DATASETS.TEST.

    Raises:
        MissingFileError: an annotation file or split is missing.
        DataError: an entry or an annotation file is malformed.
    """
    for name in names:
        kind, _, location = name.partition(":")
        if kind in _ENTRIES and name not in DatasetCatalog:
            _ENTRIES[kind](name, os.path.expanduser(location))


def _register_coco(name, location):
    path, image_root = _json_and_folder(name, location, "COCO")
    header = open_coco(path).header
    # What evaluation needs is added, or a mark removed, in a copy, never in the user's file.
    unchanged = header["complete"] and not header["marked"]
    json_file = path if unchanged else completed_copy(path)
    load = CocoFile(name, json_file, image_root, original=path)
    categories = sorted(header["categories"], key=lambda category: category["id"])
    register_coco(name, load, json_file, image_root, categories, annotation_file=path)


def _register_lvis(name, location):
    path, image_root = _json_and_folder(name, location, "LVIS")
    json_file = convert_lvis(path)
    load = CocoFile(name, json_file, image_root)
    categories = sorted(open_coco(json_file).header["categories"], key=lambda x: x["id"])
    options = {"evaluator_type": "lvis", "annotation_file": path}
    register_coco(name, load, json_file, image_root, categories, **options)


def _json_and_folder(name, location, form):
    path, separator, image_root = location.rpartition("@")
    if ".json@" in location:  # the name of the folder may contain another @
        path, separator, image_root = location.partition(".json@")
        path += ".json"
    if not (path and separator and image_root):
        kind = form.lower()
        raise DataError(
            f"'{name}': a {form} entry must have the form {kind}:ANNOTATIONS.json@IMAGE_DIR."
        )
    return path, image_root


def _register_voc(name, location):
    root, separator, split = location.rpartition("@")
    if not (root and separator and split):
        raise DataError(f"'{name}': a VOC entry must have the form voc:ROOT@SPLIT.")
    content, num_clipped = convert_voc(root, split, voc_class_names(root, split))
    label = f"voc-{os.path.basename(os.path.abspath(root))}-{split}"
    json_file = cache_json(label, content)
    image_root = os.path.join(root, "JPEGImages")

    def load():
        if num_clipped:
            logging.getLogger(__name__).info(f"{name}: clipped {num_clipped} boxes to their image.")
        records = load_coco(name, json_file, image_root)
        for record in records:
            stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
            _name_source(record, os.path.join(root, "Annotations", f"{stem}.xml"))
        return records

    register_coco(name, load, json_file, image_root, content["categories"])


def _register_yolo(name, location):
    path, separator, split = location.rpartition("@")
    if not (path and separator and split):
        raise DataError(f"'{name}': a YOLO entry must have the form yolo:ROOT/data.yaml@SPLIT.")
    content = convert_yolo(path, split)
    root = os.path.dirname(os.path.abspath(path))
    json_file = cache_json(f"yolo-{os.path.basename(root)}-{split}", content)

    def load():
        records = load_coco(name, json_file, root)
        for record in records:
            _name_source(record, label_file(record["file_name"]))
        return records

    register_coco(name, load, json_file, root, content["categories"])


def _name_source(record, annotation_file):
    """Let messages about a record name its own file, and count the objects there."""
    record["annotation_file"] = annotation_file
    for annotation in record["annotations"]:
        del annotation["id"]


_ENTRIES = {
    "coco": _register_coco,
    "lvis": _register_lvis,
    "voc": _register_voc,
    "yolo": _register_yolo,
    "semseg": register_semseg,
}


def register_crowdhuman(root=None):
    """Register ``CrowdHuman_train`` and ``CrowdHuman_val`` without opening a file.

    Args:
        root (str): folder with annotations/{train,val}.json, written by
            datasets/prepare_crowdhuman.py, and images in CrowdHuman_{train,val}; None: folder
            ``crowdhuman`` in the root of the data sets.
    """
    root = root or os.path.join(datasets_root(), "crowdhuman")
    for split in ("train", "val"):
        name = f"CrowdHuman_{split}"
        json_file = os.path.join(root, "annotations", f"{split}.json")
        image_root = os.path.join(root, name)

        remedy = "run datasets/prepare_crowdhuman.py to write it"
        load = CocoFile(name, json_file, image_root, if_missing=remedy)
        categories = [{"id": 1, "name": "person"}]
        register_coco(name, load, json_file, image_root, categories, evaluator_type="crowdhuman")

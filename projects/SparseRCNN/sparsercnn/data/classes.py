"""Classes of data sets and models: their names, and checks that they agree."""

import logging

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import DataError, abbreviate
from .coco_records import coco_records
from .files import read_text

__all__ = [
    "check_num_classes",
    "describe_dataset",
    "num_classes",
    "read_class_names",
    "require_registered",
]

# META_ARCHITECTURE -> (key of the number of classes, metadata field of the class names)
_CLASSES_OF = {
    "SparseRCNN": ("SparseRCNN.NUM_CLASSES", "thing_classes"),
    "GeneralizedRCNN": ("ROI_HEADS.NUM_CLASSES", "thing_classes"),
    "PanopticFPN": ("ROI_HEADS.NUM_CLASSES", "thing_classes"),
    "RetinaNet": ("RETINANET.NUM_CLASSES", "thing_classes"),
    "SemanticSegmentor": ("SEM_SEG_HEAD.NUM_CLASSES", "stuff_classes"),
}

# Metadata of the training set that a checkpoint holds.
_DESCRIPTION = ("thing_classes", "stuff_classes", "thing_dataset_id_to_contiguous_id")


def num_classes(cfg):
    """int: number of classes of the model; None for a META_ARCHITECTURE of another project."""
    if cfg.MODEL.META_ARCHITECTURE not in _CLASSES_OF:
        return None
    section, name = _CLASSES_OF[cfg.MODEL.META_ARCHITECTURE][0].split(".")
    return cfg.MODEL[section][name]


def describe_dataset(name):
    """Description of the training data, to be saved in a checkpoint.

    Args:
        name (str): a registered data set. Call this after loading the data set: some set their
            class names only then.

    Returns:
        dict: plain values: "dataset" (the name) and, as far as the data set has them,
        "thing_classes", "stuff_classes" (lists of names) and "thing_dataset_id_to_contiguous_id".
    """
    metadata = MetadataCatalog.get(name)
    description = {"dataset": name}
    for key in _DESCRIPTION:
        value = metadata.get(key)
        if value:
            description[key] = dict(value) if isinstance(value, dict) else list(value)
    return description


def read_class_names(path):
    """
    Args:
        path (str): a text file with one name per line.

    Returns:
        list[str]: the names.

    Raises:
        DataError: the file cannot be read, has no names, or a name twice.
    """
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: must have one class per line, each only once; it has {names}.")
    return names


def check_num_classes(cfg):
    """Compare the model's number of classes with each data set of TRAIN and TEST.

    A data set is loaded only if its metadata lacks the class names.

    Args:
        cfg (CfgNode): the whole config; entries of DATASETS must be registered.

    Raises:
        DataError: the numbers differ, two data sets differ in their classes or the order of these,
            or a data set is not registered.
    """
    if cfg.MODEL.META_ARCHITECTURE not in _CLASSES_OF:
        return
    key, kind = _CLASSES_OF[cfg.MODEL.META_ARCHITECTURE]
    number = num_classes(cfg)
    known = {}
    for dataset_name in [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]:
        classes = _classes(dataset_name, kind)
        if classes is None:
            logging.getLogger(__name__).warning(
                f"MODEL.{key} cannot be checked against {dataset_name}: its metadata has no {kind}."
            )
            continue
        if len(classes) != number:
            raise DataError(
                f"MODEL.{key} is {number}, but {dataset_name} has {len(classes)} classes: "
                f"{abbreviate(classes)}. Set MODEL.{key} {len(classes)}."
            )
        known[dataset_name] = classes
    _check_same(known)


def require_registered(dataset_name):
    """Raise DataError for a name that is not in detectron2's catalog."""
    if dataset_name not in DatasetCatalog:
        raise DataError(
            f"The data set '{dataset_name}' is not registered. Register it, or use an entry "
            "coco:ANNOTATIONS.json@IMAGE_DIR, lvis:ANNOTATIONS.json@IMAGE_DIR, voc:ROOT@SPLIT, "
            "yolo:ROOT/data.yaml@SPLIT or semseg:IMAGES@LABELS."
        )


def _classes(dataset_name, kind):
    require_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    in_file = metadata.get(kind) is None and metadata.get("json_file")
    if in_file and coco_records(dataset_name) is None:  # otherwise they are in the metadata now
        DatasetCatalog.get(dataset_name)
    classes = metadata.get(kind)
    return None if classes is None else list(classes)


def _check_same(known):
    for dataset_name, classes in known.items():
        first_name, first = next(iter(known.items()))
        for index, (one, other) in enumerate(zip(first, classes, strict=True)):
            if one != other:
                raise DataError(
                    f"{first_name} and {dataset_name} differ in their classes: class {index} is "
                    f"'{one}' in one and '{other}' in the other. Both need the same list in the "
                    "same order; for voc: and semseg: entries, set it in a classes.txt."
                )

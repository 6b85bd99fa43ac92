"""Checks of data sets on loading; invalid data is an error, or is left out and counted."""

import logging
import math
import os

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from ..errors import DataError, abbreviate
from .segmentations import mask_problem

__all__ = ["DataError", "box_problem", "leave_out_invalid"]

# Published COCO annotations hold a few boxes without width or height, which the user should not
# have to correct: they are always left out and counted.
_PUBLISHED = ("coco_2014_", "coco_2017_")


def leave_out_invalid(
    records, name, skip_invalid=False, mask_format=None, extra_check=None, suspects=None
):
    """Check the records of one data set, without opening its images.

    An image is invalid if its file is missing or its annotated size is not positive. An annotation
    is invalid if its box has no size, lies entirely outside of the image or is not finite, if its
    category is unknown, if "iscrowd" is neither 0 nor 1, or if it lacks a mask of the required
    format or has one that cannot be drawn. A box that reaches partly outside of the image is valid.

    Args:
        records (list[dict]): in detectron2's format; not modified.
        name (str): the registered data set.
        skip_invalid (bool): DATASETS.SKIP_INVALID: leave out and log invalid data instead of
            raising an error.
        mask_format (str): INPUT.MASK_FORMAT, if every annotation must have a segmentation;
            "polygon" does not allow run-length masks (RLE), except for crowds, which are not
            trained on. None: no segmentation is needed.
        extra_check (callable): maps a record to the problem with its image, or None.
        suspects (dict[int, dict]): whole records, by their numbers in `records`: in the others, the
            annotations are known to be valid. None: all are checked.

    Returns:
        tuple[list[dict], int]: the valid records with their valid annotations, and the number of
        images and annotations left out.

    Raises:
        DataError: invalid data without `skip_invalid`, two records with the same image id, or an id
        that is neither int nor str, such as NumPy's.
    """
    metadata = MetadataCatalog.get(name)
    _check_ids(records, name)
    missing = _missing_files(records)
    image_problems, box_problems, valid = [], [], []
    for number, record in enumerate(records):
        problem = _image_problem(record, missing) or (extra_check and extra_check(record))
        if problem:
            image_problems.append(f"{record['file_name']}: {problem}")
            continue
        if suspects is not None and number not in suspects:
            valid.append(record)
            continue
        whole = record if suspects is None else suspects[number]
        problems, kept = _check_annotations(whole, metadata, mask_format)
        box_problems += problems
        valid.append({**record, "annotations": kept} if problems else record)
    if image_problems or box_problems:
        _report(name, image_problems, box_problems, skip_invalid)
    return valid, len(image_problems) + len(box_problems)


def box_problem(box, width=None, height=None):
    """Check a box.

    Args:
        box (sequence[float]): x, y, width, height in absolute pixels.
        width, height (int): size of the image; None: unknown.

    Returns:
        str: the problem, or None.
    """
    x, y, w, h = box
    if not math.isfinite(x + y + w + h):
        return f"box {_describe(box)} is not finite"
    if w <= 0 or h <= 0:
        return f"box {_describe(box)} has no size"
    if x + w <= 0 or y + h <= 0 or (width and x >= width) or (height and y >= height):
        return f"box {_describe(box)} is outside of the image of {width} x {height}"
    return None


def _describe(box):
    return "(x {:g}, y {:g}, width {:g}, height {:g})".format(*box)


def _check_ids(records, name):
    seen = {}
    for record in records:
        image_id = record.get("image_id")
        if image_id is None:
            continue
        if not isinstance(image_id, (int, str)):  # results with it could not be written as json
            raise DataError(
                f"{name}: the image id of {record['file_name']} is of type "
                f"{type(image_id).__name__}; it must be an int or a str. Register the data set "
                "with int(...) or str(...) of it."
            )
        if image_id in seen:
            raise DataError(
                f"{name}: {seen[image_id]} and {record['file_name']} have the same image id, "
                f"{image_id!r}. Give each image its own id."
            )
        seen[image_id] = record["file_name"]


def _missing_files(records):
    """Paths of records that do not exist, found with one listing per folder."""
    names = {}
    for record in records:
        folder, name = os.path.split(record["file_name"])
        if "://" not in folder:  # missing remote files are found when they are read
            names.setdefault(folder, set()).add(name)
    missing = set()
    for folder, wanted in names.items():
        try:
            present = set(os.listdir(folder or "."))
        except (FileNotFoundError, NotADirectoryError):
            present = set()
        missing.update(os.path.join(folder, name) for name in wanted - present)
    return missing


def _image_problem(record, missing):
    if "problem" in record:  # found by the loader of the data set
        return record["problem"]
    if record["file_name"] in missing:
        return "the file is missing"
    if any(not record.get(key, 1) > 0 for key in ("width", "height")):
        return f"its size is given as {record.get('width')} x {record.get('height')}"
    return None


def _check_annotations(record, metadata, mask_format):
    """Problems, as text, and the annotations without problems."""
    problems, kept = [], []
    for number, annotation in enumerate(record.get("annotations", ()), start=1):
        problem = _annotation_problem(annotation, record, metadata, mask_format)
        if problem is None:
            kept.append(annotation)
            continue
        which = f"id {annotation['id']}" if "id" in annotation else f"number {number}"
        file = record.get("annotation_file") or metadata.get("annotation_file")
        file = file or metadata.get("json_file") or metadata.name
        problems.append(f"{file}: annotation {which} of {record['file_name']}: {problem}")
    return problems, kept


def _annotation_problem(annotation, record, metadata, mask_format):
    if "unknown_category" in annotation:
        return (
            f"category {annotation['unknown_category']!r} is not a class of the data set: "
            f"{abbreviate(metadata.get('thing_classes', ()))}"
        )
    mode, box = annotation["bbox_mode"], annotation["bbox"]
    if mode == BoxMode.XYXY_ABS:
        mode, box = BoxMode.XYWH_ABS, (box[0], box[1], box[2] - box[0], box[3] - box[1])
    if mode == BoxMode.XYWH_ABS:  # relative and rotated boxes are left to detectron2
        problem = box_problem(box, record.get("width"), record.get("height"))
        if problem:
            return problem
    classes = metadata.get("thing_classes")
    if classes is not None and not 0 <= annotation["category_id"] < len(classes):
        return f"category_id {annotation['category_id']} is not from 0 to {len(classes) - 1}"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd must be 0 or 1; it is {annotation['iscrowd']!r}"
    segmentation = annotation.get("segmentation")
    if mask_format and not segmentation:
        return "it has no segmentation, which MODEL.MASK_ON needs"
    if mask_format:
        problem = mask_problem(segmentation, record.get("width"), record.get("height"))
        if problem:
            return problem
    by_run_length = isinstance(segmentation, dict) and not annotation.get("iscrowd", 0)
    if mask_format == "polygon" and by_run_length:
        return "its segmentation is RLE, which needs INPUT.MASK_FORMAT bitmask"
    return None


def _report(name, image_problems, box_problems, skip_invalid):
    may_skip = skip_invalid or (not image_problems and name.startswith(_PUBLISHED))
    problems = abbreviate(image_problems + box_problems, separator="\n")
    summary = (
        f"{name}: {'left out' if may_skip else 'has'} {len(image_problems)} invalid images and "
        f"{len(box_problems)} invalid annotations:\n  {problems}"
    )
    if not may_skip:
        raise DataError(
            f"{summary}\nCorrect the data, or set DATASETS.SKIP_INVALID True to leave these out."
        )
    logging.getLogger(__name__).warning(summary)

"""What an annotation file in COCO's format must have; the messages say what is wrong, and where."""

import json
import math
import sys

from ..errors import DataError, MissingFileError
from .files import read_text
from .segmentations import form_problem

__all__ = ["check_coco", "default_area", "read_coco", "read_json"]

_NUMBER, _ID = (int, float), (int, str)
_FIELDS = {
    "categories": {"id": int, "name": str},
    "images": {"id": _ID, "file_name": str, "height": _NUMBER, "width": _NUMBER},
    "annotations": {"id": _ID, "image_id": _ID, "category_id": _ID, "bbox": list},
}


def read_coco(path):
    """Read an annotation file and check that it has COCO's format.

    Invalid boxes are not checked here but by :func:`sparsercnn.data.leave_out_invalid`, and neither
    are segmentations, except for their form.

    Args:
        path (str): a local file.

    Returns:
        dict: "images", "categories" and, unless the file has no ground truth, "annotations".

    Raises:
        MissingFileError: the file does not exist.
        DataError: the file cannot be read, is not json, or not in COCO's format.
    """
    content = read_json(path)
    check_coco(path, content)
    return content


def check_coco(path, content):
    """Check that the content of a json file has COCO's format.

    Args:
        path (str): for messages.
        content: as :func:`read_json` returns it.

    Raises:
        DataError: see :func:`read_coco`.
    """
    if not isinstance(content, dict):
        raise DataError(f"{path}: COCO's format is a json object, not {_kind(content)}.")
    for key in ("images", "categories"):
        if not isinstance(content.get(key), list) or not content[key]:
            raise DataError(f'{path}: "{key}" is missing or empty; it must be a non-empty list.')
    if not isinstance(content.get("annotations", []), list):
        raise DataError(f'{path}: "annotations" is {_kind(content["annotations"])}, not a list.')
    for section, fields in _FIELDS.items():
        _check_entries(path, content, section, fields)
    _check_categories(path, content["categories"])
    _check_images(path, content["images"])
    image_ids = {image["id"] for image in content["images"]}
    for annotation in content.get("annotations", []):
        problem = _annotation_problem(annotation, image_ids)
        if problem:
            raise DataError(
                f"{path}: annotation id {_kind(annotation['id'])} of image id "
                f"{_kind(annotation['image_id'])}: {problem}."
            )


def default_area(box):
    """The area (float) of an object without "area": that of its box [x, y, width, height], or 0 if
    the box is invalid."""
    area = box[2] * box[3]
    return area if 0 < area < math.inf else 0


def read_json(path):
    """The content of a json file.

    Raises:
        MissingFileError, DataError: see :func:`read_coco`.
    """
    try:
        text = read_text(path)
    except MissingFileError as error:
        raise MissingFileError(
            f"The annotation file {path} does not exist. Correct the path, or the folder that it "
            "is relative to: the current one, or $DETECTRON2_DATASETS."
        ) from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty.")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{path}, {position}: malformed json: {error.msg}.") from error
    except ValueError as error:
        limit = sys.get_int_max_str_digits()
        raise DataError(f"{path}: a number has more than {limit} digits. Correct it.") from error
    except RecursionError as error:
        raise DataError(f"{path}: malformed json: it is nested too deeply.") from error


def _kind(value):
    """A value of json in few words."""
    text = {dict: "an object", list: "a list"}.get(type(value)) or repr(value)
    return text if len(text) < 60 else f"{text[:60]} ..."


def _is_number(value):
    """Of a size that calculations can take, unlike an integer of 400 digits."""
    if not isinstance(value, _NUMBER) or isinstance(value, bool):
        return False
    return isinstance(value, float) or abs(value) < sys.float_info.max


def _is_finite(value):
    return _is_number(value) and math.isfinite(value)


def _check_entries(path, content, section, fields):
    """Check that each entry is an object with these fields and a unique id of the same type."""
    seen = {}
    for number, entry in enumerate(content.get(section, []), start=1):
        where = f"{path}: number {number} of {section}"
        if not isinstance(entry, dict):
            raise DataError(f"{where} is {_kind(entry)}, not an object.")
        for key, types in fields.items():
            if key not in entry:
                raise DataError(f'{where} (id {_kind(entry.get("id"))}) has no "{key}".')
            if not isinstance(entry[key], types) or isinstance(entry[key], bool):
                value = "a string" if isinstance(entry[key], str) else _kind(entry[key])
                raise DataError(f'{where} (id {_kind(entry["id"])}): "{key}" cannot be {value}.')
        if entry["id"] in seen:
            raise DataError(f"{where} repeats the id {_kind(entry['id'])}; ids must be unique.")
        seen[entry["id"]] = type(entry["id"])
    if len(set(seen.values())) > 1:
        raise DataError(f"{path}: ids of {section} must be all numbers or all text, not both.")


def _check_categories(path, categories):
    ids = {}
    for category in categories:
        name, category_id = category["name"], category["id"]
        if name in ids:
            raise DataError(
                f"{path}: the categories with ids {ids[name]} and {category_id} have the same "
                f"name, {_kind(name)}. Rename one, or merge them."
            )
        ids[name] = category_id


def _check_images(path, images):
    for image in images:
        for key in ("width", "height"):
            if not _is_finite(image[key]):
                raise DataError(
                    f"{path}: image id {_kind(image['id'])}: its {key} is {_kind(image[key])}; it "
                    "must be a number of pixels."
                )


def _annotation_problem(annotation, image_ids):
    """What is wrong with an annotation whose fields have their types, or None."""
    image_id, box = annotation["image_id"], annotation["bbox"]
    if image_id not in image_ids:
        other = str(image_id) if isinstance(image_id, int) else _as_number(image_id)
        if other in image_ids:
            return f"its image_id is {_kind(image_id)}, but that of the image is {_kind(other)}"
        return 'there is no image with that id in "images"; add the image, or remove this'
    if len(box) != 4 or not all(map(_is_number, box)):
        return f"bbox must be four numbers, x, y, width, height; it is {_shown(box)}"
    if annotation.get("ignore", 0):
        return 'it has "ignore", which is not in COCO\'s format; use "iscrowd"'
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f'"iscrowd" must be 0 or 1; it is {_kind(annotation["iscrowd"])}'
    area = annotation.get("area", 0)
    if not _is_finite(area) or area < 0:
        return f'"area" must be a number of pixels, at least 0; it is {_kind(area)}'
    points = annotation.get("keypoints")
    points = [] if points is None else points
    are_numbers = isinstance(points, list) and all(_is_finite(x) for x in points)
    if not are_numbers or len(points) % 3:
        return '"keypoints" must be a list of numbers x, y, visibility, x, y, visibility, ...'
    return form_problem(annotation.get("segmentation"))


def _shown(box):
    return box if len(str(box)) < 200 else f"{str(box)[:200]} ..."


def _as_number(text):
    return int(text) if text.isdecimal() and len(text) < 20 else None

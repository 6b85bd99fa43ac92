"""Reading of a COCO file annotation by annotation, so that its polygons are never all in memory."""

import json
import re
from array import array
from dataclasses import dataclass, field

import pycocotools.mask

__all__ = [
    "BITMASK",
    "IRREGULAR",
    "NO_MASK",
    "POLYGON",
    "Scan",
    "scan_coco",
    "segmentation_of",
]

IRREGULAR = (ValueError, LookupError, TypeError, RecursionError, OverflowError)
"""Errors of :func:`scan_coco`."""

NO_MASK, POLYGON, BITMASK = range(3)  # kinds of segmentations
_KIND = {list: POLYGON, dict: BITMASK}

_skip_space = re.compile(r"[ \t\n\r]*").match
_decode = json.JSONDecoder().raw_decode
# Nearly all of a large file are coordinates of polygons, whose values are not needed yet: numbers
# with a point stay text, as bytes, which no other value of json is. This takes a third of the time.
_decode_annotation = json.JSONDecoder(parse_float=str.encode).raw_decode
_SPACE = " \t\n\r"
_NUMBER, _ID = {int, float}, {int, str}


@dataclass
class Scan:
    """What is kept of a file: all but its annotations, and a few values of each annotation."""

    text: str  # the whole file
    content: dict = field(default_factory=dict)  # its other sections
    starts: list = field(default_factory=list)  # of each annotation, in characters
    ends: list = field(default_factory=list)
    ids: list = field(default_factory=list)
    image_ids: list = field(default_factory=list)
    category_ids: list = field(default_factory=list)
    boxes: array = field(default_factory=lambda: array("d"))  # x, y, width, height of each
    crowds: list = field(default_factory=list)  # whether "iscrowd" is set
    kinds: list = field(default_factory=list)  # of segmentations; None: see segmentation_of
    defaults: dict = field(default_factory=dict)  # number of the annotation -> missing fields

    def annotations(self, numbers):
        """Texts (list[str]) of the annotations with these numbers, with "iscrowd" and "area"."""
        text, starts, ends = self.text, self.starts, self.ends
        if not self.defaults:
            return [text[starts[n] : ends[n]] for n in numbers]
        fields = (json.dumps(self.defaults.get(n, {}))[1:-1] for n in numbers)
        return [
            f"{text[starts[n] : ends[n] - 1]}{', ' if more else ''}{more}}}"
            for n, more in zip(numbers, fields, strict=True)
        ]

    def completed_text(self):
        """The file with "iscrowd" and "area" in all annotations."""
        annotations = ", ".join(self.annotations(range(len(self.starts))))
        return f"{self.text[: self.starts[0]]}{annotations}{self.text[self.ends[-1] :]}"


def scan_coco(text):
    """Read an annotation file whose fields all have the expected types.

    Args:
        text (str): json.

    Returns:
        Scan: with what :func:`sparsercnn.data.coco.read_coco` would accept.

    Raises:
        Exception: one of IRREGULAR: the file may not have COCO's format; `read_coco` says what is
            wrong, if anything is.
    """
    scan = Scan(text)
    at = _expect("{", text, 0)
    while True:
        key, at = _decode(text, at)
        at = _expect(":", text, at)
        if not isinstance(key, str) or key in scan.content:
            raise ValueError(f"{key!r} is no key, or a second time")
        if key == "annotations":
            scan.content[key] = None
            at = _scan_annotations(scan, at)
        else:
            scan.content[key], at = _decode(text, at)
        at = _skip_space(text, at).end()
        if text[at] != ",":
            break
        at = _skip_space(text, at + 1).end()
    if _expect("}", text, at) != len(text):
        raise ValueError("something follows the object")
    scan.content.pop("annotations", None)
    _check(scan)
    return scan


def segmentation_of(annotation):
    """The segmentation as detectron2's ``load_coco_json`` gives it.

    Returns:
        list[list[float]] or dict: polygons of three points or more, or compressed RLE; False if
        there is none; None if it has no valid polygon, which leaves out the annotation.
    """
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return False
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return pycocotools.mask.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    return [x for x in segmentation if len(x) % 2 == 0 and len(x) >= 6] or None


def _expect(character, text, at):
    """The position of what follows this character, without the space around it."""
    at = _skip_space(text, at).end()
    if text[at] != character:
        raise ValueError(f"{character} expected")
    return _skip_space(text, at + 1).end()


def _scan_annotations(scan, at):
    text = scan.text
    at = _expect("[", text, at)
    if text[at] == "]":
        return at + 1
    while True:
        annotation, end = _decode_annotation(text, at)
        scan.starts.append(at)
        scan.ends.append(end)
        _add(scan, annotation)
        at = end if text[end] == "," else _skip_space(text, end).end()
        if text[at] != ",":
            break
        at += 1
        if text[at] in _SPACE:
            at = _skip_space(text, at).end()
    if text[at] != "]":
        raise ValueError("] expected")
    return at + 1


def _add(scan, annotation):
    box = [_number(x) for x in annotation["bbox"]]
    if len(box) != 4 or _number(annotation.get("ignore", 0)):
        raise ValueError("not an annotation of COCO's format")
    scan.ids.append(annotation["id"])
    scan.image_ids.append(annotation["image_id"])
    scan.category_ids.append(annotation["category_id"])
    scan.boxes.extend(box)
    scan.crowds.append(_number(annotation.get("iscrowd", 0)) != 0)
    segmentation = segmentation_of(annotation)
    scan.kinds.append(NO_MASK if segmentation is False else _KIND.get(type(segmentation)))
    if "iscrowd" not in annotation or "area" not in annotation:
        defaults = {"iscrowd": 0, "area": max(0, box[2] * box[3])}
        missing = {key: value for key, value in defaults.items() if key not in annotation}
        scan.defaults[len(scan.ids) - 1] = missing


def _number(value):
    return float(value) if type(value) is bytes else value


def _check(scan):
    """That the fields have their types and ids are unique, without a loop over annotations."""
    images, categories = scan.content["images"], scan.content["categories"]
    of_images = {"id": _ID, "file_name": {str}, "height": _NUMBER, "width": _NUMBER}
    columns = [([x[key] for x in images], types) for key, types in of_images.items()]
    columns += [([x[key] for x in categories], types) for key, types in _OF_CATEGORIES.items()]
    columns += [(x, _ID) for x in (scan.ids, scan.image_ids, scan.category_ids)]
    if not images or not categories or any(not set(map(type, x)) <= types for x, types in columns):
        raise TypeError("a field is of another type")
    for ids in (columns[0][0], columns[len(of_images)][0], scan.ids):
        if len(set(ids)) < len(ids):
            raise ValueError("an id is used twice")


_OF_CATEGORIES = {"id": {int}, "name": {str}}

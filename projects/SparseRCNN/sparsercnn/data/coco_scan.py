"""Reading of a COCO file annotation by annotation, so that its polygons are never all in memory."""

import json
import math
import re
from array import array
from dataclasses import dataclass, field

from .coco_schema import default_area
from .segmentations import form_problem, is_harmless, mask_problem

__all__ = ["BITMASK", "BROKEN", "IRREGULAR", "NO_MASK", "POLYGON", "Scan", "scan_coco"]

IRREGULAR = (ValueError, LookupError, TypeError, RecursionError, OverflowError)
"""Errors of :func:`scan_coco`."""

NO_MASK, POLYGON, BITMASK, BROKEN = range(4)  # kinds of segmentations

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
    kinds: list = field(default_factory=list)  # of segmentations
    rle_sizes: dict = field(default_factory=dict)  # number of the annotation -> (height, width)
    defaults: dict = field(default_factory=dict)  # number of the annotation -> missing fields
    marked: bool = False  # whether the file begins with a byte-order mark, which `text` lacks

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
        """The file with "iscrowd" and "area" in all annotations, without a byte-order mark."""
        if not self.starts:
            return self.text
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
    number = len(scan.ids)
    box = _numbers(annotation["bbox"])
    crowd = _number(annotation.get("iscrowd", 0))
    area = _number(annotation.get("area", 0))
    if (
        len(box) != 4
        or type(area) not in _NUMBER
        or crowd not in (0, 1)
        or not math.isfinite(area)
        or area < 0
        or _number(annotation.get("ignore", 0))
    ):
        raise ValueError("not an annotation of COCO's format")
    if "keypoints" in annotation:
        _check_keypoints(annotation["keypoints"])
    scan.ids.append(annotation["id"])
    scan.image_ids.append(annotation["image_id"])
    scan.category_ids.append(annotation["category_id"])
    scan.boxes.extend(box)
    scan.crowds.append(crowd != 0)
    scan.kinds.append(_kind(scan, annotation.get("segmentation")))
    if "iscrowd" not in annotation or "area" not in annotation:
        defaults = {"iscrowd": 0, "area": default_area(box)}
        missing = {key: value for key, value in defaults.items() if key not in annotation}
        scan.defaults[number] = missing


def _number(value):
    return float(value) if type(value) is bytes else value


def _numbers(values):
    numbers = [float(x) if type(x) is bytes else x for x in values]
    if type(values) is not list or not _NUMBER.issuperset(map(type, numbers)):
        raise TypeError("not a list of numbers")
    return numbers


def _check_keypoints(points):
    if points is None:
        return
    if not all(map(math.isfinite, _numbers(points))) or len(points) % 3:
        raise ValueError("not keypoints of COCO's format")


def _kind(scan, segmentation):
    """The kind of the segmentation of the annotation that is being added."""
    if segmentation is None or segmentation == [] or segmentation == {}:
        return NO_MASK
    if type(segmentation) is list:
        kind = BROKEN
        for polygon in segmentation:
            if not is_harmless(polygon):
                break
            if len(polygon) >= 6 and len(polygon) % 2 == 0:
                kind = POLYGON
        else:
            return kind
    # The rare others are read once more, with their numbers.
    segmentation = _decode(scan.text, scan.starts[-1])[0]["segmentation"]
    if form_problem(segmentation):
        raise ValueError("not a segmentation of COCO's format")
    if mask_problem(segmentation):
        return BROKEN
    if type(segmentation) is list:
        return POLYGON
    scan.rle_sizes[len(scan.ids) - 1] = tuple(segmentation["size"])
    return BITMASK


def _check(scan):
    """What needs all entries of a section, without a loop over annotations."""
    images, categories = scan.content["images"], scan.content["categories"]
    of_images = {"id": _ID, "file_name": {str}, "height": _NUMBER, "width": _NUMBER}
    columns = {key: [x[key] for x in images] for key in of_images}
    names, numbers = ([x[key] for x in categories] for key in ("name", "id"))
    types = [(columns[key], of_images[key]) for key in of_images]
    types += [(names, {str}), (numbers, {int})]
    types += [(x, _ID) for x in (scan.ids, scan.image_ids, scan.category_ids)]
    if not images or not categories or any(not set(map(type, x)) <= y for x, y in types):
        raise TypeError("a field is of another type")
    if any(len(set(map(type, x))) > 1 for x in (columns["id"], scan.ids)):
        raise TypeError("ids are of different types")
    for ids in (columns["id"], numbers, names, scan.ids):
        if len(set(ids)) < len(ids):
            raise ValueError("an id or a name is used twice")
    if not set(columns["id"]).issuperset(scan.image_ids):
        raise ValueError("there is no image with this id")
    if not all(map(math.isfinite, columns["width"] + columns["height"])):
        raise ValueError("a size is not finite")

"""Reading of a COCO file that leaves its annotations text, so that they are never all objects."""

import codecs
import json
import math
from array import array
from dataclasses import dataclass, field
from typing import Any

import msgspec

from .coco_schema import default_area
from .segmentations import are_harmless_polygons, form_problem, mask_problem

__all__ = [
    "BITMASK",
    "BROKEN",
    "IRREGULAR",
    "NO_MASK",
    "POLYGON",
    "Scan",
    "scan_coco",
    "scan_content",
]

IRREGULAR = (
    ValueError,
    LookupError,
    TypeError,
    RecursionError,
    OverflowError,
    msgspec.MsgspecError,  # in 0.19, not a ValueError
)
"""Errors of :func:`scan_coco`."""

NO_MASK, POLYGON, BITMASK, BROKEN = range(4)  # kinds of segmentations

_ABSENT = msgspec.UNSET
_CHUNK = 2**20  # bytes
_BATCH = 1000  # annotations


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    height: int | float
    width: int | float


class _Category(msgspec.Struct):
    id: int
    name: str


class _Annotation(msgspec.Struct, gc=False):
    id: int | str
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    iscrowd: int | float | bool | msgspec.UnsetType = _ABSENT
    area: float | msgspec.UnsetType = _ABSENT
    ignore: Any = None
    keypoints: list[float] | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


# Nearly all of a large file are coordinates of polygons, whose values are not needed yet: they are
# checked to be json, and stay bytes.
_sections = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_annotation = msgspec.json.Decoder(_Annotation).decode


@dataclass
class Scan:
    """What is kept of a file: its text, and a few values of each annotation."""

    sections: dict  # name -> json; "annotations" are taken from `texts`
    images: list
    categories: list
    texts: list = field(default_factory=list)  # json of each annotation
    ids: list = field(default_factory=list)
    image_ids: list = field(default_factory=list)
    category_ids: list = field(default_factory=list)
    boxes: array = field(default_factory=lambda: array("d"))  # x, y, width, height of each
    crowds: list = field(default_factory=list)  # whether "iscrowd" is set
    kinds: list = field(default_factory=list)  # of segmentations
    rle_sizes: dict = field(default_factory=dict)  # number of the annotation -> (height, width)
    defaults: dict = field(default_factory=dict)  # number of the annotation -> missing fields
    marked: bool = False  # whether the file begins with a byte-order mark

    def annotations(self, numbers):
        """Json (bytes) of a list of these annotations, with "iscrowd" and "area"."""
        texts = [self.texts[n] for n in numbers]
        if self.defaults:
            for place, n in enumerate(numbers):
                if n in self.defaults:
                    more = json.dumps(self.defaults[n])[1:].encode()
                    texts[place] = b"%b, %b" % (bytes(texts[place])[:-1], more)
        return b"[%b]" % b", ".join(texts)

    def completed(self):
        """The file (bytes) with "iscrowd" and "area" in all annotations, without a byte-order
        mark."""
        sections = dict(self.sections)
        if self.texts:
            sections["annotations"] = self.annotations(range(len(self.texts)))
        items = (b"%b: %b" % (json.dumps(k).encode(), bytes(v)) for k, v in sections.items())
        return b"{%b}" % b", ".join(items)


def scan_coco(text):
    """Read an annotation file whose fields all have the expected types.

    Args:
        text (bytes): json in UTF-8.

    Returns:
        Scan: with what :func:`sparsercnn.data.coco_schema.read_coco` would accept.

    Raises:
        Exception: one of IRREGULAR: the file may not have COCO's format; `read_coco` says what is
            wrong, if anything is.
    """
    _check_encoding(text)
    sections = _sections(text)
    annotations = _list(sections.get("annotations", b"[]"))
    images, categories = (msgspec.json.decode(sections[x]) for x in ("images", "categories"))
    scan = Scan(sections, images, categories)
    for first in range(0, len(annotations), _BATCH):
        texts = annotations[first : first + _BATCH]
        _add(scan, texts, [_annotation(text) for text in texts])
    _check(scan)
    return scan


def scan_content(content):
    """As :func:`scan_coco`, of a valid file that it refuses, such as one with NaN.

    Args:
        content (dict): as :func:`sparsercnn.data.coco_schema.read_coco` returns it.

    Returns:
        Scan: equal to that of :func:`scan_coco` where both read a file.
    """
    others = {k: [] if k == "annotations" else v for k, v in content.items()}
    sections = {k: json.dumps(v).encode() for k, v in others.items()}
    scan = Scan(sections, content["images"], content["categories"])
    fields = set(_Annotation.__struct_fields__)
    for annotation in content.get("annotations", []):
        values = {key: value for key, value in annotation.items() if key in fields}
        segmentation = json.dumps(annotation.get("segmentation")).encode()
        values["segmentation"] = msgspec.Raw(segmentation)
        _add(scan, [json.dumps(annotation).encode()], [_Annotation(**values)])
    return scan


def _check_encoding(text):
    """Raise UnicodeDecodeError if text (bytes) is not UTF-8, at which msgspec does not look where
    it only passes text on."""
    if text.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(text), _CHUNK):
        decoder.decode(text[at : at + _CHUNK])
    decoder.decode(b"", final=True)


def _add(scan, texts, annotations):
    start = len(scan.ids)
    scan.texts += texts
    scan.ids += [x.id for x in annotations]
    scan.image_ids += [x.image_id for x in annotations]
    scan.category_ids += [x.category_id for x in annotations]
    for number, annotation in enumerate(annotations, start):
        box, crowd, area = annotation.bbox, annotation.iscrowd, annotation.area
        if (
            crowd not in (0, 1, _ABSENT)
            or not (area is _ABSENT or area >= 0)
            or annotation.ignore
            or len(annotation.keypoints or ()) % 3
        ):
            raise ValueError("not an annotation of COCO's format")
        if crowd is _ABSENT or area is _ABSENT:
            defaults = {"iscrowd": (crowd, 0), "area": (area, default_area(box))}
            scan.defaults[number] = {k: new for k, (old, new) in defaults.items() if old is _ABSENT}
        scan.boxes.extend(box)
        scan.crowds.append(crowd == 1)
        scan.kinds.append(_kind(scan, number, annotation.segmentation))


def _kind(scan, number, segmentation):
    """The kind of a segmentation (msgspec.Raw)."""
    drawable = are_harmless_polygons(bytes(segmentation))
    if drawable is not None:
        return POLYGON if drawable else BROKEN
    # The rare others are read, with their numbers.
    segmentation = json.loads(bytes(segmentation))
    if not segmentation and segmentation in (None, [], {}):
        return NO_MASK
    if form_problem(segmentation):
        raise ValueError("not a segmentation of COCO's format")
    if mask_problem(segmentation):
        return BROKEN
    if type(segmentation) is list:
        return POLYGON
    scan.rle_sizes[number] = tuple(segmentation["size"])
    return BITMASK


def _check(scan):
    """What needs all entries of a section, without a loop over annotations."""
    images = msgspec.convert(scan.images, list[_Image])
    categories = msgspec.convert(scan.categories, list[_Category])
    image_ids, names = [x.id for x in images], [x.name for x in categories]
    if not images or not categories:
        raise ValueError("a section is empty")
    if any(len(set(map(type, x))) > 1 for x in (image_ids, scan.ids)):
        raise TypeError("ids are of different types")
    for ids in (image_ids, [x.id for x in categories], names, scan.ids):
        if len(set(ids)) < len(ids):
            raise ValueError("an id or a name is used twice")
    if not set(image_ids).issuperset(scan.image_ids):
        raise ValueError("there is no image with this id")
    if not all(math.isfinite(size) for x in images for size in (x.width, x.height)):
        raise ValueError("a size is not finite")

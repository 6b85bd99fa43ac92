"""A COCO file sorted by image, with the few values of each annotation that loaders look through."""

import json
import os
import zipfile
from dataclasses import dataclass

import numpy as np

from ..files import write_atomically
from .coco_scan import BROKEN

__all__ = ["DAMAGED", "CocoIndex", "build_index"]

DAMAGED = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile)
"""Errors that reading a damaged file may raise."""


@dataclass
class CocoIndex:
    """N images in the order of their ids, and their M annotations, sorted by image and, within an
    image, in the order of the file.
    """

    # Bytes: json of each image, and a line feed. {"file_name", "height", "width", "image_id",
    # "annotations": as in the file, with "iscrowd" and "area"}
    lines: np.ndarray
    ends: np.ndarray  # (N,), of each image's json
    counts: np.ndarray  # (N,) annotations of each image
    categories: np.ndarray  # (M,) index into header["category_ids"]
    crowds: np.ndarray  # (M,) of bool
    kinds: np.ndarray  # (M,) NO_MASK, POLYGON, BITMASK or BROKEN of `coco_scan`
    suspicious: np.ndarray  # (M,) of bool: boxes to look at with `box_problem`
    images: np.ndarray  # bytes: the same without annotations, as a list in json
    # "categories": as in the file; "category_ids": those that annotations use; "complete": whether
    # the file has all of "iscrowd" and "area"; "marked": whether it begins with a byte-order mark
    header: dict

    def save(self, path):
        """Write all but the lines to a file."""
        header = _to_bytes(self.header)
        with write_atomically(path) as file:
            np.savez(file, header=header, **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path, lines_path):
        """Read what :meth:`save` has written, and map the lines into memory.

        Raises:
            FileNotFoundError: one of both files does not exist.
            Exception: one of DAMAGED.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
            header = json.loads(file["header"].tobytes())
        if os.path.getsize(lines_path) != arrays["ends"][-1]:
            raise ValueError(f"{lines_path} does not have {arrays['ends'][-1]} bytes")
        return cls(np.memmap(lines_path, np.uint8, mode="r"), header=header, **arrays)


_ARRAYS = ("ends", "counts", "categories", "crowds", "kinds", "suspicious", "images")


def build_index(scan, lines):
    """Sort the annotations of a file by image.

    Args:
        scan (Scan): see :func:`~sparsercnn.data.coco_scan.scan_coco`.
        lines (file): open for writing bytes, which gets the lines.

    Returns:
        CocoIndex: without its lines.
    """
    images = sorted(scan.images, key=lambda image: image["id"])
    place = {image["id"]: n for n, image in enumerate(images)}
    of_image = np.array([place[x] for x in scan.image_ids], np.int64)
    order = np.argsort(of_image, kind="stable")
    counts = np.bincount(of_image[order], minlength=len(images))

    numbers, first, position = order.tolist(), 0, 0
    outlines, ends = [], []
    fields = ("file_name", "height", "width")
    images = [{**{key: x[key] for key in fields}, "image_id": x["id"]} for x in images]
    for image, count in zip(images, counts.tolist(), strict=True):
        outlines.append(json.dumps(image).encode())
        annotations = scan.annotations(numbers[first : first + count])
        position += lines.write(b'%b, "annotations": %b}\n' % (outlines[-1][:-1], annotations))
        ends.append(position)
        first += count

    category_ids = list(dict.fromkeys(scan.category_ids))
    number_of = {category_id: n for n, category_id in enumerate(category_ids)}
    sizes = np.array([(image["width"], image["height"]) for image in images], np.float64)
    boxes = np.frombuffer(scan.boxes).reshape(-1, 4)
    kinds = np.array(scan.kinds, np.int8)
    for number, (height, width) in scan.rle_sizes.items():
        image = images[of_image[number]]
        if (image["width"], image["height"]) != (width, height):
            kinds[number] = BROKEN
    return CocoIndex(
        lines=None,
        ends=np.array(ends),
        counts=counts,
        categories=np.array([number_of[x] for x in scan.category_ids], np.int32)[order],
        crowds=np.array(scan.crowds, bool)[order],
        kinds=kinds[order],
        suspicious=_may_be_invalid(boxes[order], sizes[of_image[order]]),
        images=np.frombuffer(b"[%b]" % b", ".join(outlines), np.uint8),
        header={
            "categories": scan.categories,
            "category_ids": category_ids,
            "complete": not scan.defaults,
            "marked": scan.marked,
        },
    )


def _may_be_invalid(boxes, sizes):
    """:func:`~sparsercnn.data.validation.box_problem` of boxes (M, 4) in images (M, 2), as bool."""
    position, size = boxes[:, :2], boxes[:, 2:]
    with np.errstate(all="ignore"):  # of boxes that are not finite
        inside = (position + size > 0) & ((position < sizes) | (sizes == 0))
        return ~(np.isfinite(boxes.sum(1)) & ((size > 0) & inside).all(1))


def _to_bytes(content):
    return np.frombuffer(json.dumps(content).encode(), np.uint8)

"""Segmentations of annotations, polygons and run lengths (RLE), checked before anything draws them:
pycocotools does so without any check, in as much memory as it takes.
"""

import re

import numpy as np
import pycocotools.mask

__all__ = ["are_harmless_polygons", "clean", "form_problem", "mask_problem"]

_FARTHEST = 10**6  # pixels, of a coordinate
_MOST = 2**32 - 1  # pixels, which pycocotools counts in 32 bits
_LONGEST = 10**7  # pixels, of the outline of a polygon, which is drawn in 25 bytes per pixel

# Polygons of so few numbers, of at most four digits before the point, are within both limits.
_FEW_NUMBERS = 1000
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_LARGE_NUMBER = re.compile(rb"(?<![.0])00000")


def form_problem(segmentation):
    """Check that a segmentation has one of COCO's forms.

    Args:
        segmentation: a value of json.

    Returns:
        str: the problem, or None.
    """
    if segmentation is None or segmentation in ([], {}):
        return None
    if isinstance(segmentation, list):
        if all(isinstance(x, list) and all(map(_is_number, x)) for x in segmentation):
            return None
        if all(map(_is_number, segmentation)):
            return "its segmentation is a list of numbers; polygons are a list of such lists"
        return "its segmentation must be a list of polygons, each a list of numbers x, y, x, y, ..."
    if not isinstance(segmentation, dict):
        return f"its segmentation cannot be {_shortened(segmentation)}; it must be polygons or RLE"
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if isinstance(counts, (str, bytes)) or (isinstance(counts, list) and all(map(_is_int, counts))):
        if isinstance(size, (list, tuple)) and len(size) == 2 and all(map(_is_int, size)):
            return None
        return f'the "size" of its RLE must be height and width; it is {_shortened(size)}'
    return 'the "counts" of its RLE must be text or a list of whole numbers'


def mask_problem(segmentation, width=None, height=None):
    """Check that a segmentation can be drawn, within the memory that its image takes.

    Args:
        segmentation: with one of COCO's forms; polygons may be arrays, and counts bytes.
        width, height (int): size of the image; None: unknown.

    Returns:
        str: the problem, or None.
    """
    if isinstance(segmentation, dict):
        return _rle_problem(segmentation, width, height)
    polygons = _drawable(segmentation)
    if not polygons:
        return "none of the polygons of its segmentation has three points"
    return next(filter(None, map(_polygon_problem, polygons)), None)


def clean(segmentation):
    """A segmentation as detectron2 expects it.

    Args:
        segmentation: with one of COCO's forms, perhaps with problems.

    Returns:
        list[list[float]] or dict: polygons without those of fewer than three points, if there are
        others, or compressed RLE; None if there is no segmentation. One with a problem that
        :func:`mask_problem` finds in every image is returned as it is.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list) and not _rle_problem(segmentation):
            return pycocotools.mask.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    return _drawable(segmentation) or segmentation


def are_harmless_polygons(text):
    """A quick look at the polygons of an annotation: nearly all of a large file.

    Args:
        text (bytes): the segmentation as it is written, in json.

    Returns:
        bool: whether it has a polygon of three points; :func:`mask_problem` would find nothing
        else. None: nothing is known.
    """
    text = text.translate(_DIGITS_AS_0, b" \t\r\n")
    form = text.translate(None, b"0.,-")  # with exponents, and whatever is no number
    if text[:2] != b"[[" or text[-2:] != b"]]" or (b"00000" in text and _LARGE_NUMBER.search(text)):
        return None
    if form == b"[[]]":
        counts = [text.count(b",") + 1]
    else:
        polygons = text[2:-2].split(b"],[")
        if form != b"[%b]" % (b"[]" * len(polygons)):
            return None
        counts = [x.count(b",") + 1 for x in polygons]
    if max(counts) > _FEW_NUMBERS:
        return None
    return max([n for n in counts if n % 2 == 0], default=0) >= 6


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_int(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _shortened(value):
    text = repr(value)
    return text if len(text) < 40 else f"{text[:40]} ..."


def _drawable(polygons):
    """Those with three points or more, as in detectron2."""
    return [x for x in polygons if len(x) % 2 == 0 and len(x) >= 6]


def _polygon_problem(polygon):
    try:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
    except OverflowError:
        points = np.full((1, 2), np.inf)
    if not np.isfinite(points).all():
        return "a polygon of its segmentation has a number that is not finite"
    if np.abs(points).max() > _FARTHEST:
        return f"a polygon of its segmentation reaches farther than {_FARTHEST:,} pixels"
    if np.abs(points - np.roll(points, 1, axis=0)).max(1).sum() > _LONGEST:
        return f"a polygon of its segmentation has an outline of more than {_LONGEST:,} pixels"
    return None


def _rle_problem(segmentation, width=None, height=None):
    rows, columns = segmentation["size"]
    counts = segmentation["counts"]
    if rows <= 0 or columns <= 0 or rows * columns > _MOST:
        return f"its RLE has the size {_shortened(columns)} x {_shortened(rows)}"
    if width and height and (columns, rows) != (width, height):
        return f"its RLE is of an image of {columns} x {rows}, not of {width} x {height}"
    if not isinstance(counts, list):
        counts = _decode_counts(counts)
        if counts is None:
            return "its RLE is damaged: its counts are not complete"
    if counts and min(counts) < 0:
        return "its RLE is damaged: it has negative counts"
    if sum(counts) != rows * columns:
        return (
            f"its RLE is damaged: its counts have the sum {_shortened(sum(counts))}, but the image "
            f"has {columns} x {rows} pixels"
        )
    return None


def _decode_counts(text):
    """The counts (list[int]) of compressed RLE, as pycocotools' ``rleFrString`` reads them: in
    groups of five bits, lowest first; None if the text is not complete."""
    codes = text.encode("utf-8") if isinstance(text, str) else text
    counts, value, shift = [], 0, 0
    for code in codes:
        code -= 48
        if not 0 <= code < 64 or shift > 60:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:  # there is more of it
            continue
        if code & 16:
            value -= 1 << shift
        if len(counts) > 2:  # as a difference
            value += counts[-2]
        counts.append(value)
        value = shift = 0
    return None if shift else counts

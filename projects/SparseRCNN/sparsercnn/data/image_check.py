"""Checks that image files can be decoded."""

import logging
import os
from functools import cache

from PIL import Image

from ..errors import DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "UNREADABLE",
    "image_problem",
    "image_size",
    "leave_out",
    "upright_size",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Endings, in lower case, by which images are found in a folder."""

UNREADABLE = (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError)
"""Errors that Pillow raises for files that are missing, damaged, of an unknown type or huge."""

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


def image_problem(record):
    """Decode the image of a record, as small as its format allows, and compare its size.

    Args:
        record (dict): in detectron2's format.

    Returns:
        str: the problem with the image, or None.
    """
    path = record["file_name"]
    try:
        status = os.stat(path)
        size = _upright_size(path, status.st_size, status.st_mtime_ns)
    except UNREADABLE as error:
        return f"cannot be read: {error}"
    annotated = (record.get("width", size[0]), record.get("height", size[1]))
    if size != annotated:
        return f"its size is {size[0]} x {size[1]}, annotated as {annotated[0]} x {annotated[1]}"
    return None


def image_size(path):
    """
    Args:
        path (str): an image file.

    Returns:
        tuple[int, int]: width and height after rotation by its EXIF orientation; (0, 0), which
        the check of the data set reports, if the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            return upright_size(image)
    except UNREADABLE:
        return 0, 0


def leave_out(record, error, skip_invalid, note=""):
    """Log that the image of a record is left out because of `error`, an exception.

    Raises:
        DataError: `skip_invalid` (DATASETS.SKIP_INVALID) is False.
    """
    problem = f"{record['file_name']}: {error}"
    if not skip_invalid:
        raise DataError(
            f"Unusable image {problem}. Correct the data, or set DATASETS.SKIP_INVALID True to "
            "leave such images out."
        ) from error
    logging.getLogger(__name__).warning(f"Left out image {problem}{note}")


# Cached because evaluation is repeated during training.
@cache
def _upright_size(path, num_bytes, modified):
    with Image.open(path) as image:
        size = upright_size(image)
        image.draft("L", (1, 1))
        image.load()
    return size


def upright_size(image):
    """
    Args:
        image (PIL.Image.Image): an opened image, not necessarily decoded.

    Returns:
        tuple[int, int]: width and height after rotation by its EXIF orientation.
    """
    width, height = image.size
    sideways = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    return (height, width) if sideways else (width, height)

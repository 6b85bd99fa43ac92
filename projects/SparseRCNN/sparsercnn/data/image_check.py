"""Checks that image files can be decoded."""

import logging
import os
from functools import cache

from ..errors import DataError
from ..image_files import UNREADABLE, open_image, to_eight_bits, upright_size

__all__ = ["image_problem", "leave_out"]


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
    with open_image(path) as image:
        size = upright_size(image)
        image.draft("L", (1, 1))
        image.load()
        to_eight_bits(image)
    return size

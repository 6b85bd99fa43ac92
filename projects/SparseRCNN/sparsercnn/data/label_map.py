"""Label maps: the class of each pixel, in an image file of one channel."""

import numpy as np
from PIL import Image

from ..errors import DataError, abbreviate
from .image_check import UNREADABLE

__all__ = ["label_map_problem", "read_label_map", "record_problem"]

_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B")


def read_label_map(path):
    """Read the numbers of a label map, of a palette image the indices rather than the colours.

    Args:
        path (str): the file.

    Returns:
        ndarray: (H, W), of integers.

    Raises:
        DataError: the file has colours, or cannot be read.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            labels = np.array(image)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if mode not in _ONE_CHANNEL:
        raise DataError(
            f"{path} has channels {mode}: a label map has one, which holds the numbers of "
            "classes. Convert colours to numbers first."
        )
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def label_map_problem(labels, num_classes, ignore_label, size=None):
    """What makes a label map unusable.

    Args:
        labels: (H, W), of integers.
        num_classes (int): K.
        ignore_label (int): value of pixels that do not count.
        size (tuple[int, int]): height and width that it should have; None: any.

    Returns:
        str: the problem, to be read after the file's name; None if there is none.
    """
    if size is not None and labels.shape != tuple(size):
        height, width = labels.shape
        return f"has {width} x {height} pixels, and the image {size[1]} x {size[0]}"
    unknown = (labels != ignore_label) & ((labels < 0) | (labels >= num_classes))
    if not unknown.any():
        return None
    values = abbreviate(np.unique(labels[unknown]).tolist())
    return (
        f"holds the values {values}, and there are {num_classes} classes, 0 to {num_classes - 1} "
        f"({ignore_label}: none). Correct it, or set MODEL.SEM_SEG_HEAD.NUM_CLASSES and the data "
        "set's classes.txt"
    )


def record_problem(record, num_classes, ignore_label):
    """Decode a record's label map, and check it.

    Args:
        record (dict): in detectron2's format.
        num_classes (int): K.
        ignore_label (int): value of pixels that do not count.

    Returns:
        str: what is wrong with it, None if nothing or if the record has none.
    """
    path = record.get("sem_seg_file_name")
    if path is None:
        return None
    try:
        labels = read_label_map(path)
    except DataError as error:
        return f"its label map {error}"
    size = (record["height"], record["width"]) if "height" in record else None
    problem = label_map_problem(labels, num_classes, ignore_label, size)
    return problem and f"its label map {path} {problem}"

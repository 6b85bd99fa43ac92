"""Label maps: image files of one channel that hold the class of each pixel."""

import numpy as np

from ..errors import DataError, abbreviate
from ..image_files import UNREADABLE, open_image

__all__ = ["label_map_problem", "read_label_map", "record_problem"]

_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
_LOSSLESS = ("BMP", "GIF", "PNG", "PPM", "TIFF")  # JPEG would change the numbers


def read_label_map(path):
    """Read the class numbers of a label map; from a palette image, the indices.

    Args:
        path (str): the file.

    Returns:
        ndarray: (H, W), of integers.

    Raises:
        DataError: the file cannot be read, or has several channels.
    """
    try:
        with open_image(path, _LOSSLESS) as image:
            mode = image.mode
            labels = np.array(image)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if mode not in _ONE_CHANNEL:
        raise DataError(
            f"{path} has channels {mode}, but a label map must have one channel of class numbers. "
            "Convert colours to class numbers first."
        )
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def label_map_problem(labels, num_classes, ignore_label, size=None):
    """Check the size and values of a label map.

    Args:
        labels: (H, W), of integers.
        num_classes (int): K.
        ignore_label (int): value of ignored pixels.
        size (tuple[int, int]): expected height and width; None: any.

    Returns:
        str: the problem, phrased to follow the file's name, or None.
    """
    if size is not None and labels.shape != tuple(size):
        height, width = labels.shape
        return f"has {width} x {height} pixels, but the image has {size[1]} x {size[0]}"
    unknown = (labels != ignore_label) & ((labels < 0) | (labels >= num_classes))
    if not unknown.any():
        return None
    values = abbreviate(np.unique(labels[unknown]).tolist())
    return (
        f"holds the values {values}, but there are {num_classes} classes, 0 to {num_classes - 1} "
        f"(ignored pixels: {ignore_label}). Correct it, or set MODEL.SEM_SEG_HEAD.NUM_CLASSES and "
        "the data set's classes.txt"
    )


def record_problem(record, num_classes, ignore_label):
    """Decode and check the label map of a record.

    Args:
        record (dict): in detectron2's format.
        num_classes (int): K.
        ignore_label (int): value of ignored pixels.

    Returns:
        str: the problem, or None if there is none or the record has no label map.
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

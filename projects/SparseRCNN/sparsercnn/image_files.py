"""Image files: opened in few formats, upright, with eight bits per channel; resized for a model."""

import contextlib
import glob
import os
import struct

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data.transforms import AugInput
from detectron2.utils.file_io import PathManager
from PIL import Image

from .errors import ImageError, UserError
from .files import open_regular

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "UNREADABLE",
    "find_images",
    "image_size",
    "load_image",
    "open_image",
    "read_image",
    "resize_for_model",
    "to_eight_bits",
    "upright_size",
]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read, whatever a file is called. Pillow knows more, of
which some start other programs (PostScript) and few are tested."""

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings, in lower case, by which images are found in a folder."""

UNREADABLE = (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError)
"""Errors of files that are missing, damaged, of an unknown type or huge."""

# Beside these, what Pillow's decoders raise where a damaged file surprises them.
_DAMAGED = (IndexError, KeyError, TypeError, ArithmeticError, AttributeError, struct.error)

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


def find_images(patterns):
    """Find image files by paths, folders and globs, each file once.

    Args:
        patterns (list[str]): files, folders (without subfolders) or globs (including ``**``).

    Returns:
        tuple[list[str], list[str]]: image files in the order of the patterns, sorted within a
        folder or glob; and the patterns without any image.
    """
    found, without = {}, []
    for pattern in patterns:
        expanded = os.path.expanduser(pattern)
        if os.path.isdir(expanded):
            paths = [os.path.join(expanded, name) for name in os.listdir(expanded)]
        else:
            paths = glob.glob(expanded, recursive=True)
        paths = sorted(x for x in paths if os.path.isfile(x) and x.lower().endswith(IMAGE_SUFFIXES))
        if os.path.exists(expanded) and not os.path.isdir(expanded):
            paths = [expanded]  # whatever its name, as it was asked for
        if not paths:
            without.append(pattern)
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values()), without


@contextlib.contextmanager
def open_image(path, formats=FORMATS):
    """Open an image file, for a block that does nothing but decode it.

    Args:
        path (str | Path): a regular file, or an address that detectron2's PathManager can open.
        formats (sequence[str]): of FORMATS.

    Yields:
        PIL.Image.Image: not decoded yet.

    Raises:
        Exception: one of UNREADABLE, also for errors in the block. The message may lack the path.
    """
    with contextlib.ExitStack() as stack:
        file = PathManager.open(path, "rb") if "://" in str(path) else open_regular(path)
        stack.enter_context(file)
        try:
            yield stack.enter_context(Image.open(file, formats=formats))
        except Image.UnidentifiedImageError:
            raise ImageError(
                f"it is damaged, or in none of the formats that are read, {', '.join(formats)}. "
                "Convert it to one of them"
            ) from None
        except UserError:
            raise
        except _DAMAGED as error:
            raise ImageError(f"it is damaged: {error!r}") from error


def read_image(path, channels=None):
    """Read an image file, as :func:`detectron2.data.detection_utils.read_image` does, but see
    :func:`to_eight_bits`.

    Args:
        path (str | Path): see :func:`open_image`.
        channels (str): a mode of Pillow, "BGR" or "YUV-BT.601", as INPUT.FORMAT.

    Returns:
        ndarray: (H, W, C), upright according to its EXIF data; uint8 unless that is YUV.

    Raises:
        Exception: one of UNREADABLE. The message may lack the path.
    """
    with open_image(path) as image:
        image.load()  # of a TIFF, Pillow turns the pixels now, and forgets the orientation
        return detection_utils.convert_PIL_to_numpy(to_eight_bits(image), channels)


def load_image(path, channels=None):
    """:func:`read_image` with one error.

    Raises:
        ImageError: the file cannot be read; the message names it.
    """
    try:
        return read_image(path, channels)
    except UNREADABLE as error:
        reason = os.strerror(error.errno) if getattr(error, "errno", None) else error
        raise ImageError(f"Cannot read {path}: {reason}.") from error


def to_eight_bits(image):
    """Turn an image upright, and scale one of 16 bits.

    Pillow's own conversion cuts 16 bits off at 255, and fractions down to 0.

    Args:
        image (PIL.Image.Image): decoded, of any mode.

    Returns:
        PIL.Image.Image: upright according to its EXIF data. A grey image of 16 bits has become one
        of 8 bits, 0 to 65535 as 0 to 255, whatever range its values have.

    Raises:
        ImageError: its pixels have 32 bits, whose range is not known.
    """
    # A grey PNG of 16 bits has the mode "I" in older versions of Pillow.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        upright = detection_utils._apply_exif_orientation(image)
        values = np.asarray(upright).astype(np.uint32)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "integers" if image.mode == "I" else "fractions, such as 0 to 1,"
        raise ImageError(
            f"its pixels are {kind} of 32 bits, whose range is not known. Scale them to 0 to 255, "
            "and save them with 8 bits"
        )
    return detection_utils._apply_exif_orientation(image)


def resize_for_model(image, augmentations):
    """Make the input of a model in evaluation.

    Args:
        image (ndarray): (H, W, C), in the model's channel order.
        augmentations (AugmentationList): the resize of evaluation.

    Returns:
        dict: "image", Tensor, (C, h, w); "height" and "width" before the resize.

    Raises:
        ImageError: one side would have no pixels.
    """
    height, width = image.shape[:2]
    resized = AugInput(image)
    try:
        augmentations(resized)
    except ValueError as error:
        raise ImageError(
            f"An image of {width} x {height} pixels cannot be resized for the model: {error}."
        ) from error
    tensor = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
    return {"image": tensor, "height": height, "width": width}


def upright_size(image):
    """
    Args:
        image (PIL.Image.Image): an opened image, not necessarily decoded.

    Returns:
        tuple[int, int]: width and height after rotation by its EXIF orientation.
    """
    if image.format == "TIFF":  # versions of Pillow differ in the size before
        image.load()
    width, height = image.size
    sideways = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    return (height, width) if sideways else (width, height)


def image_size(path):
    """
    Args:
        path (str | Path): an image file.

    Returns:
        tuple[int, int]: :func:`upright_size`; (0, 0), which the check of the data set reports, if
        the file cannot be read.
    """
    try:
        with open_image(path) as image:
            return upright_size(image)
    except UNREADABLE:
        return 0, 0

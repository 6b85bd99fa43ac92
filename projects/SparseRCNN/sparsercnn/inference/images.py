"""Images from memory, checked."""

import numpy as np
from PIL import Image

from ..errors import ImageError
from ..image_files import UNREADABLE, to_eight_bits

__all__ = ["as_pil"]

_BGR = [2, 1, 0, 3]  # and alpha


def as_pil(image, channels="RGB"):
    """Check an image and convert it to one of Pillow.

    Args:
        image (ndarray | PIL.Image.Image): an array of uint8, (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4); or an image of Pillow, which is rotated according to its EXIF data.
        channels (str): of an array with colours, "RGB" or "BGR", each perhaps with alpha.

    Returns:
        PIL.Image.Image: of any mode.

    Raises:
        ImageError: it is something else, is empty or damaged, has pixels of 32 bits, or has more
            pixels than Pillow reads from a
            file without suspecting a decompression bomb.
    """
    if channels not in ("RGB", "BGR"):
        raise ImageError(f"channels is '{channels}'; it must be RGB or BGR.")
    if isinstance(image, Image.Image):
        _check_size(image.size)
        try:
            image.load()
            return to_eight_bits(image)
        except UNREADABLE as error:
            raise ImageError(f"An image of Pillow cannot be used: {error}.") from error
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"An image cannot be a {type(image).__name__}: give a path, an array of NumPy, an "
            "image of Pillow, or a list of these."
        )
    _check_array(image)
    _check_size(image.shape[1::-1])
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if channels == "BGR" and image.ndim == 3:
        image = image[:, :, _BGR[: image.shape[2]]]
    return Image.fromarray(np.ascontiguousarray(image))


def _check_array(array):
    if array.dtype != np.uint8:
        broken = array.dtype.kind == "f" and not np.isfinite(array).all()
        raise ImageError(
            f"The array of an image holds {array.dtype}"
            + (", some of it NaN or infinite" if broken else "")
            + "; it must be uint8, from 0 to 255. Values from 0 to 1 become that by "
            "(image * 255).round().astype('uint8')."
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"The array of an image has the shape {array.shape}; it must be (H, W), (H, W, 3) or "
            "(H, W, 4), with the channels last. Several images are given as a list."
        )


def _check_size(size):
    width, height = size
    if 0 in size:
        raise ImageError(f"An image of {width} x {height} pixels is empty.")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise ImageError(
            f"An image of {width} x {height} pixels is too large: the limit is {2 * limit} pixels "
            "(twice PIL.Image.MAX_IMAGE_PIXELS). Resize it, or cut it into tiles."
        )

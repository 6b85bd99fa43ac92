"""Images and videos from users who are not trusted: checked before they are decoded."""

import hashlib
import io
import os
import struct

import cv2
from PIL import Image

from ..errors import ImageError, MediaError
from ..image_files import FORMATS, UNREADABLE
from ..inference.media import open_capture

__all__ = ["Upload", "open_video", "short_stem"]

_DAMAGED = (*UNREADABLE, IndexError, KeyError, OverflowError, TypeError, struct.error)
# Position and first bytes of mp4 and mov, webm and mkv, avi. OpenCV reads more, such as playlists,
# which name other files of this machine or addresses.
_CONTAINERS = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (8, b"AVI "))
_STEM_BYTES = 200  # file systems take names of 255, endings included


def short_stem(name):
    """The name of a user's file without its ending, cut so that files can be named after it."""
    stem = os.path.splitext(name)[0]
    return os.fsencode(stem)[:_STEM_BYTES].decode("utf-8", "ignore")


class Upload:
    """An image file in memory, not decoded yet.

    Attributes:
        content (bytes): of the file.
        name (str): of the file, without folders; None if it is not known.
        key (tuple): the same for the same content and name.
    """

    def __init__(self, content, name=None):
        self.content = content
        self.name = os.path.basename(name.replace("\\", "/")) if name else None
        self.key = (hashlib.sha256(content).hexdigest(), self.name)

    @classmethod
    def from_file(cls, path, name, limits):
        """Read `path`, an uploaded file that the user calls `name`.

        Raises:
            ImageError: the file is too large, or has been deleted.
        """
        try:
            with open(path, "rb") as file:
                content = file.read(limits.image_bytes + 1)
        except OSError as error:
            raise ImageError("The image has been deleted. Upload it again.") from error
        if len(content) > limits.image_bytes:
            raise ImageError(
                f"The image file is too large: the limit is {limits.image_bytes / 2**20:.3g} MiB."
            )
        return cls(content, name)

    def open(self, limits):
        """Decode the image, if its header says that it is not too large.

        Args:
            limits (Limits): `image_pixels` is read.

        Returns:
            PIL.Image.Image: decoded, of any mode, not rotated yet.

        Raises:
            ImageError: it is no image, is damaged or too large.
        """
        name = self.name or "The file"
        try:
            image = Image.open(io.BytesIO(self.content), formats=FORMATS)
            _check_pixels(name, image.size, limits)
            image.load()
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(_too_large(name, limits)) from error
        except Image.UnidentifiedImageError as error:
            raise ImageError(
                f"{name} is not an image that can be read. Use one of: {', '.join(FORMATS)}."
            ) from error
        except _DAMAGED as error:
            raise ImageError(f"{name} is damaged and cannot be read.") from error
        return image


def open_video(path, name, limits):
    """Open an uploaded video, if it is one.

    Args:
        path (str): the file.
        name (str): what the user calls it, for messages.
        limits (Limits): `video_bytes` and `image_pixels` are read.

    Returns:
        cv2.VideoCapture: release it after use.

    Raises:
        MediaError: it is no video, is too large, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(16)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise MediaError("The video has been deleted. Upload it again.") from error
    if size > limits.video_bytes:
        raise MediaError(
            f"The video is too large: the limit is {limits.video_bytes / 2**20:.3g} MiB."
        )
    if not any(start[at : at + len(mark)] == mark for at, mark in _CONTAINERS):
        raise MediaError(f"{name} is not a video that can be read. Use mp4, mov, webm, mkv or avi.")
    try:
        capture = open_capture(path)
    except MediaError as error:
        raise MediaError(
            f"{name} cannot be read: it is damaged or has an unknown codec."
        ) from error
    width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    try:
        _check_pixels(name, (width, height), limits)
    except ImageError as error:
        capture.release()
        raise MediaError(str(error)) from error
    return capture


def _check_pixels(name, size, limits):
    if size[0] * size[1] > limits.image_pixels:
        raise ImageError(f"{_too_large(name, limits)} It has {size[0]} x {size[1]}.")


def _too_large(name, limits):
    return (
        f"{name} has too many pixels: the limit is {limits.image_pixels / 1e6:.3g} megapixels. "
        "Resize it, or cut it into tiles."
    )

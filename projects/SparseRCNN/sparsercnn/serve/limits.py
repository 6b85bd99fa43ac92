"""What a request may ask for, so that no request takes all of the machine."""

from dataclasses import dataclass

from ..errors import UserError

__all__ = ["BusyError", "Limits"]


class BusyError(UserError):
    """Too many requests wait already."""


@dataclass(frozen=True)
class Limits:
    """Sizes above which a request is refused.

    Attributes:
        image_bytes: of an image file.
        image_pixels: width * height of an image or of a video's frames, read from the header
            before anything is decoded. A model with masks needs about 100 bytes per pixel.
        video_bytes: of a video file.
        video_frames: frames that are computed; a longer video is cut.
        waiting: requests that wait or are computed.
        kept_bytes: what was found in the latest images is kept up to this size.
        upload_seconds: time to send an image to the REST call.
        file_seconds: age after which uploaded and drawn files are deleted.
    """

    image_bytes: int = 20 * 2**20
    image_pixels: int = 16_000_000
    video_bytes: int = 200 * 2**20
    video_frames: int = 300
    waiting: int = 16
    kept_bytes: int = 2**29
    upload_seconds: float = 60
    file_seconds: int = 3600

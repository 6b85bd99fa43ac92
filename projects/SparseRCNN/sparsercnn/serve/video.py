"""A model on an uploaded video, up to a number of frames."""

import contextlib
import math
import os
from typing import NamedTuple

import cv2

from ..errors import MediaError
from ..inference.media import WEB_CODECS, VideoWriter, read_frames
from .uploads import open_video, short_stem
from .view import choose, draw, entries

__all__ = ["VideoResult", "draw_video"]


class VideoResult(NamedTuple):
    """How far a video is, and what was found so far."""

    path: str  # the drawn video, not complete before the last frame
    entries: list  # as the demo writes them; "image_id" is the frame, from 0
    frames: int  # computed so far
    total: int | None  # that will be computed, as the header says; None: unknown
    cut: bool  # the video has more frames, which are left out


def draw_video(models, name, path, file_name, folder, choice):
    """Run a model on the frames of a video.

    Args:
        models (Models): these, whose limits apply.
        name (str): of the model.
        path (str): the uploaded file.
        file_name (str): what the user calls it.
        folder (str): for the drawn video, which browsers can play.
        choice (Choice): what is drawn and written.

    Yields:
        VideoResult: after each frame; once more at the end, when the drawn video is complete.

    Raises:
        MediaError: it is no video, or is too large, see :func:`~.uploads.open_video`.
    """
    with contextlib.ExitStack() as stack:
        capture = open_video(path, file_name, models.limits)
        stack.callback(capture.release)
        limit = models.limits.video_frames
        header = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        total = min(header, limit) if header > 0 else None
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate <= 240 and math.isfinite(rate) else 25.0
        writer, found, frames, cut = None, [], 0, False
        for frame in read_frames(capture):
            if frames == limit:
                cut = True
                break
            result = choose(models.find_in_frame(name, frame), choice)
            drawn = draw(result, choice)
            if writer is None:
                ending, size = os.path.splitext(file_name)[1], drawn.shape[1::-1]
                source = os.path.join(folder, short_stem(file_name) + ending)
                writer = VideoWriter(source, folder, rate, size, codecs=WEB_CODECS)
                stack.enter_context(writer)
            if drawn.shape[1::-1] != size:
                raise MediaError(f"The frames of {file_name} have different sizes.")
            writer.write(drawn)
            found += [
                {**x, "image_id": frames, "file_name": file_name} for x in entries(result, choice)
            ]
            frames += 1
            yield VideoResult(writer.path, found, frames, total, cut)
    if not frames:
        raise MediaError(f"{file_name} has no frames that can be read.")
    yield VideoResult(writer.path, found, frames, total, cut)

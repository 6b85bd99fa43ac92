"""Inputs and outputs of a demo: image files, videos, a camera, a window."""

import contextlib
import os
import re
import sys

import cv2

from ..errors import MediaError

__all__ = [
    "WEB_CODECS",
    "VideoWriter",
    "Window",
    "open_capture",
    "plan_outputs",
    "read_frames",
]

_KEPT_ENDINGS = (".jpeg", ".jpg", ".png")
_CODECS = ((".mp4", "mp4v"), (".mkv", "X264"), (".mkv", "MJPG"))
WEB_CODECS = ((".webm", "VP80"), (".webm", "VP90"))
"""Endings and codecs that every browser plays; mp4v, in ``.mp4``, is none of these."""


def plan_outputs(inputs, folder, endings=_KEPT_ENDINGS, default_ending=".png"):
    """Choose a file name in `folder` for each input.

    Names are those of the inputs; equal names are numbered, and no input is overwritten.

    Args:
        inputs (list[str]): files.
        folder (str): folder of the outputs.
        endings (tuple[str]): extensions that are kept.
        default_ending (str): replacement of other extensions.

    Returns:
        list[str]: one path per input, all different.
    """
    taken = {os.path.realpath(x) for x in inputs}
    outputs = []
    for path in inputs:
        stem, ending = os.path.splitext(os.path.basename(path))
        ending = ending if ending.lower() in endings else default_ending
        output, number = os.path.join(folder, stem + ending), 1
        while os.path.realpath(output) in taken:
            number += 1
            output = os.path.join(folder, f"{stem}-{number}{ending}")
        taken.add(os.path.realpath(output))
        outputs.append(output)
    return outputs


def open_capture(source):
    """Open a video file or a camera.

    Args:
        source (str | int): a file, or the number of a camera.

    Returns:
        cv2.VideoCapture: opened; release it after use.

    Raises:
        MediaError: it cannot be opened.
    """
    if isinstance(source, str) and not os.path.isfile(source):
        raise MediaError(f"The video {source} does not exist.")
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        if isinstance(source, int):
            raise MediaError(
                f"Camera {source} cannot be opened. Check that it is connected and not in use."
            )
        raise MediaError(
            f"{source} is not a video that this build of OpenCV can read. Convert it to another "
            "format, such as mp4."
        )
    return capture


def read_frames(capture):
    """Yield each frame of an opened capture: ndarray, (H, W, 3), uint8, BGR."""
    while (read := capture.read())[0]:
        yield read[1]


class VideoWriter(contextlib.AbstractContextManager):
    """Context manager that writes ``.mp4``, or ``.mkv`` if OpenCV has no encoder for mp4.

    Attributes:
        path (str): the file.
    """

    def __init__(self, source, folder, frames_per_second, size, codecs=_CODECS):
        """
        Args:
            source (str): input video, whose name is kept.
            folder (str): output folder.
            frames_per_second (float): frame rate.
            size (tuple[int, int]): width and height in pixels.
            codecs (sequence[tuple[str, str]]): ending and codec, of which the first that OpenCV can
                encode is used.

        Raises:
            MediaError: no encoder could be opened.
        """
        for ending, codec in codecs:
            self.path = plan_outputs([source], folder, (ending,), ending)[0]
            fourcc = cv2.VideoWriter_fourcc(*codec)
            self._writer = cv2.VideoWriter(self.path, fourcc, frames_per_second, size)
            if self._writer.isOpened():
                return
        tried = ", ".join(f"{codec} in {ending}" for ending, codec in codecs)
        raise MediaError(
            f"OpenCV cannot write a {size[0]}x{size[1]} video in {folder} (tried {tried}). Check "
            "that the folder is writable, or extract the frames and use --input."
        )

    def write(self, image):
        """Append an image: ndarray, (H, W, 3), uint8, RGB, in the size of the video."""
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def __exit__(self, *error):
        self._writer.release()


class Window(contextlib.AbstractContextManager):
    """Context manager of a window that shows pictures."""

    def __init__(self, title):
        """
        Raises:
            MediaError: there is no display, or OpenCV is built without windows.
        """
        if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
            raise MediaError(
                "Pictures cannot be shown: the installed OpenCV (opencv-python-headless) has no "
                "windows. For files, use --output DIR; for windows, install the extra `gui`: "
                "pip uninstall opencv-python-headless, then pip install -e '.[gui]'."
            )
        on_linux = sys.platform.startswith("linux")
        if on_linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise MediaError(
                "Pictures cannot be shown: there is no display. For files, use --output DIR."
            )
        self.title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL)

    def show(self, image, wait=1):
        """
        Args:
            image (ndarray): (H, W, 3), uint8, RGB.
            wait (int): milliseconds to wait for a key; 0: no limit.

        Returns:
            bool: False if the key was q or Escape.
        """
        cv2.imshow(self.title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(wait) & 0xFF not in (ord("q"), 27)

    def __exit__(self, *error):
        cv2.destroyWindow(self.title)

"""Where a demo's pictures come from and where they go: files, videos, a camera, a window."""

import glob
import os
import re
import sys

import cv2

from ..errors import MediaError

__all__ = [
    "MediaError",
    "VideoWriter",
    "Window",
    "find_images",
    "open_capture",
    "plan_outputs",
    "read_frames",
]

_IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_KEPT_ENDINGS = (".jpeg", ".jpg", ".png")
_CODECS = ((".mp4", "mp4v"), (".mkv", "X264"), (".mkv", "MJPG"))


def find_images(patterns):
    """Files named, files in folders named, and files that match a glob, each once.

    Args:
        patterns (list[str]): file, folder (not its subfolders) or glob (``**`` too), in any order.

    Returns:
        tuple[list[str], list[str]]: image files in the order given, those of a folder or glob
        sorted; and the patterns that led to none.
    """
    found, without = {}, []
    for pattern in patterns:
        expanded = os.path.expanduser(pattern)
        if os.path.isdir(expanded):
            paths = _images_in(expanded)
        elif os.path.exists(expanded):
            paths = [expanded]
        else:
            matches = sorted(glob.glob(expanded, recursive=True))
            paths = [x for x in matches if os.path.isfile(x) and x.lower().endswith(_IMAGE_ENDINGS)]
        if not paths:
            without.append(pattern)
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values()), without


def plan_outputs(inputs, folder, endings=_KEPT_ENDINGS, default_ending=".png"):
    """A file in `folder` for each input, of the same name.

    Equal names from different folders are numbered, and no input is ever overwritten.

    Args:
        inputs (list[str]): files.
        folder (str): where the outputs will be.
        endings (tuple[str]): endings that are kept.
        default_ending (str): the ending in place of others.

    Returns:
        list[str]: as many paths, all different.
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
        source (str | int): a file, or a camera's number.

    Returns:
        cv2.VideoCapture: opened; release it after use.

    Raises:
        MediaError: it cannot be opened.
    """
    if isinstance(source, str) and not os.path.isfile(source):
        raise MediaError(f"There is no video {source}.")
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        if isinstance(source, int):
            raise MediaError(f"Camera {source} cannot be opened.")
        raise MediaError(f"{source} is no video that this build of OpenCV can read.")
    return capture


def read_frames(capture):
    """
    Args:
        capture (cv2.VideoCapture): opened.

    Yields:
        ndarray: (H, W, 3), uint8, BGR, until there are no more.
    """
    while True:
        success, frame = capture.read()
        if not success:
            return
        yield frame


class VideoWriter:
    """Writes ``.mp4``, or ``.mkv`` where OpenCV has no encoder for that. A context manager."""

    def __init__(self, source, folder, frames_per_second, size):
        """
        Args:
            source (str): the video file whose name is kept.
            folder (str): where to write.
            frames_per_second (float): of the video.
            size (tuple[int, int]): width and height in pixels.

        Raises:
            MediaError: no encoder could be opened.
        """
        for ending, codec in _CODECS:
            self.path = plan_outputs([source], folder, (ending,), ending)[0]
            fourcc = cv2.VideoWriter_fourcc(*codec)
            self._writer = cv2.VideoWriter(self.path, fourcc, frames_per_second, size)
            if self._writer.isOpened():
                return
        tried = ", ".join(f"{codec} in {ending}" for ending, codec in _CODECS)
        raise MediaError(
            f"OpenCV cannot write a {size[0]}x{size[1]} video in {folder} (tried {tried}). Check "
            "that the folder is writable, or take the frames apart and use --input."
        )

    def write(self, image):
        """
        Args:
            image (ndarray): (H, W, 3), uint8, RGB, of the writer's size.
        """
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._writer.release()


class Window:
    """A window that shows pictures. A context manager."""

    def __init__(self, title):
        """
        Args:
            title (str): of the window.

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
            wait (int): milliseconds to wait for a key; 0: until there is one.

        Returns:
            bool: False if the key was q or Escape.
        """
        cv2.imshow(self.title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(wait) & 0xFF not in (ord("q"), 27)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        cv2.destroyWindow(self.title)


def _images_in(folder):
    paths = [os.path.join(folder, x) for x in sorted(os.listdir(folder))]
    return [x for x in paths if os.path.isfile(x) and x.lower().endswith(_IMAGE_ENDINGS)]

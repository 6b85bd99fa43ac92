"""Detection on image files, videos and a camera; writes drawn pictures and COCO results."""

import contextlib
import logging
import math
import os
import sys

import cv2
from PIL import Image
from tqdm import tqdm

from ..errors import ImageError, MediaError
from ..files import write_json
from .media import VideoWriter, Window, open_capture, plan_outputs, read_frames
from .results import save_label_map

__all__ = ["run_on_camera", "run_on_images", "run_on_video"]

RESULTS_FILE = "detections.json"
_LABELS_FOLDER = "predicted_labels"  # not "labels", the usual folder of ground truth
_TITLE = "detections (q to quit)"


def run_on_images(predictor, paths, output, threshold):
    """Detect on image files; those that cannot be read, resized or drawn are reported and skipped.

    Args:
        predictor (Predictor): the model to run.
        paths (list[str]): image files.
        output (str): folder for the drawn pictures, ``detections.json`` and label maps of
            segmentations, created if needed; None: show the pictures in a window, one per key
            press.
        threshold: lowest score that is drawn and written, see :class:`Predictor`.

    Returns:
        list[str]: the files that were skipped.

    Raises:
        MediaError: a window cannot be opened, or an input is in the folder of the pictures.
    """
    failed = []
    if output:
        _refuse_folder_of_inputs(paths, output)
        targets = plan_outputs(paths, output)
        label_maps = [x if x.lower().endswith(".png") else f"{x}.png" for x in targets]
        label_maps = plan_outputs(label_maps, os.path.join(output, _LABELS_FOLDER))
    with contextlib.ExitStack() as stack:
        window = None if output else stack.enter_context(Window(_TITLE))
        results = stack.enter_context(_results(output))
        bar = stack.enter_context(tqdm(paths, unit="image"))
        for number, path in enumerate(bar, start=1):
            try:
                found = predictor(path, threshold=threshold)
                picture = found.plot()
            except ImageError as error:
                message = str(error)
                message = message if path in message else f"{path}: {message}"
                tqdm.write(message, file=sys.stderr)
                failed.append(path)
                continue
            results += found.to_dict(number)
            if output:
                Image.fromarray(picture).save(targets[number - 1])
                save_label_map(found.output, label_maps[number - 1])
            elif not window.show(picture, wait=0):
                break
    return failed


def run_on_video(predictor, path, output, threshold):
    """Detect on each frame of a video.

    Args:
        predictor (Predictor): the model to run.
        path (str): the video file.
        output (str): folder for the drawn video, with the same name and frame rate, and
            ``detections.json``, whose "image_id" is the frame number from 0; None: show the video.
        threshold: lowest score that is drawn and written, see :class:`Predictor`.

    Returns:
        int: number of frames.

    Raises:
        MediaError: the video cannot be read, or the result cannot be written or shown, or the
            video is in the folder of the result.
    """
    if output:
        _refuse_folder_of_inputs([path], output)
    with contextlib.ExitStack() as stack:
        capture = open_capture(path)
        stack.callback(capture.release)
        expected = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        rate = _frame_rate(capture, path)
        sink = None if output else stack.enter_context(Window(_TITLE))
        results = stack.enter_context(_results(output))
        count = 0
        frames = tqdm(read_frames(capture), total=expected or None, unit="frame")
        for frame in stack.enter_context(frames):
            if sink is None:
                sink = stack.enter_context(VideoWriter(path, output, rate, frame.shape[1::-1]))
            found = predictor(frame, threshold=threshold, channels="BGR")
            results += [{**result, "file_name": path} for result in found.to_dict(count)]
            count += 1
            drawn = found.plot(scale=1)
            if output:
                sink.write(drawn)
            elif not sink.show(drawn):
                return count
    if count == 0:
        raise MediaError(
            f"{path} has no frames that this build of OpenCV can read. Convert it to another "
            "format, such as mp4."
        )
    if count < expected:
        logging.getLogger(__name__).warning(
            f"The header of {path} gives {expected} frames, but only {count} could be read."
        )
    return count


def run_on_camera(predictor, threshold):
    """Detect on the pictures of the first camera, shown in a window, until q or Escape is pressed.

    Args:
        predictor (Predictor): the model to run.
        threshold: lowest score that is drawn, see :class:`Predictor`.

    Raises:
        MediaError: there is no camera or no display.
    """
    with contextlib.ExitStack() as stack:
        window = stack.enter_context(Window(_TITLE))
        capture = open_capture(0)
        stack.callback(capture.release)
        for frame in read_frames(capture):
            found = predictor(frame, threshold=threshold, channels="BGR")
            if not window.show(found.plot(scale=1)):
                return


def _refuse_folder_of_inputs(paths, output):
    """Raise MediaError if files would be written among the user's own, and perhaps over them."""
    written = {os.path.realpath(x) for x in (output, os.path.join(output, _LABELS_FOLDER))}
    for path in paths:
        if os.path.dirname(os.path.realpath(path)) in written or (
            os.path.realpath(os.path.dirname(path)) in written
        ):
            raise MediaError(
                f"--output {output} is the folder of the input {path}, where files could be "
                "overwritten. Give another folder."
            )


@contextlib.contextmanager
def _results(output):
    """A list that is written to ``detections.json`` at the end, even after an error."""
    results = []
    if output:
        os.makedirs(output, exist_ok=True)
    try:
        yield results
    finally:
        if output:
            write_json(os.path.join(output, RESULTS_FILE), results)


def _frame_rate(capture, path):
    rate = capture.get(cv2.CAP_PROP_FPS)
    if rate > 0 and math.isfinite(rate):
        return rate
    logging.getLogger(__name__).warning(f"{path} has no frame rate; 25 frames per second are used.")
    return 25.0

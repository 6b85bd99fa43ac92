"""Running a model on all images of a data set, and keeping what its stages do.

Dimension letters: I images, T stages, N proposals.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from ..analysis.stages import StageRecorder
from ..errors import DataError, ImageError
from .records import Detections
from .stages import StageHistory

__all__ = ["Run", "detect", "run_model"]


@dataclass
class Run:
    """What a model found, stage by stage."""

    detections: Detections
    stages: list  # of Detections, of each stage as if it were the last; [] without stages
    history: StageHistory | None  # of the proposals
    losses: np.ndarray | None  # (I,) of the last stage, weighted as in training


def run_model(predictor, truth):
    """Detect on all images of a data set, as in evaluation.

    Args:
        predictor (Predictor): the model.
        truth (Truth): the data set; its objects are used for losses and assignments.

    Returns:
        Run: everything.

    Raises:
        DataError: the model's classes are not those of the data set.
        ImageError: an image cannot be read.
    """
    _check_classes(predictor, truth)
    numbers = tqdm(range(truth.num_images), unit="image", disable=None)
    if not predictor.num_stages:
        found = [_columns(predictor(truth.files[i])) for i in numbers]
        return Run(_join(found, truth), [], None, None)
    by_image, traces = [], []
    for i in numbers:
        own = truth.image == i
        keep = own & ~truth.crowd  # crowds are not trained on
        objects = truth.boxes[keep] / np.tile(truth.sizes[i], 2), truth.classes[keep]
        with StageRecorder(predictor.model) as recorder:
            by_image.append([_columns(x) for x in predictor.stages(truth.files[i])])
        traces.append(recorder.trace(*map(torch.as_tensor, objects)))
    stages = [_join(x, truth) for x in zip(*by_image, strict=True)]
    losses = np.array([x.loss for x in traces])
    return Run(stages[-1], stages, StageHistory.of(traces), losses)


def detect(predictor, truth):
    """Detect on all images of a data set that can be read.

    Args:
        predictor (Predictor): the model.
        truth (Truth): the data set.

    Returns:
        tuple[Detections, ndarray]: none on images that cannot be read, and which these are, (I,),
        bool.

    Raises:
        DataError: the model's classes are not those of the data set.
    """
    _check_classes(predictor, truth)
    found, unreadable = [], np.zeros(truth.num_images, bool)
    for i, file in enumerate(tqdm(truth.files, unit="image", disable=None)):
        try:
            found.append(_columns(predictor(file)))
        except ImageError:
            found.append((np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)))
            unreadable[i] = True
    return _join(found, truth), unreadable


def _check_classes(predictor, truth):
    names = predictor.labels.things
    if names and names != truth.class_names:
        raise DataError(
            f"The model's classes, {', '.join(names)}, are not those of {truth.name}: "
            f"{', '.join(truth.class_names)}. Name a data set with the same classes in the same "
            "order by --dataset."
        )


def _columns(found):
    return found.boxes, found.classes, found.scores


def _join(images, truth):
    boxes, classes, scores = (np.concatenate(x) for x in zip(*images, strict=True))
    if classes.max(initial=0) >= truth.num_classes:
        raise DataError(
            f"The model finds class {classes.max()}, but {truth.name} has {truth.num_classes} "
            "classes. Name the data set that it was trained for by --dataset."
        )
    image = np.repeat(np.arange(len(images)), [len(x[0]) for x in images])
    return Detections.sort(image, classes, boxes, scores)

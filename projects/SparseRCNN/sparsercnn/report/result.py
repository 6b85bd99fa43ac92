"""All that a report says about one model."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .confusion import confusion_matrix
from .matching import Matches, match
from .per_image import image_table
from .precision import Curves, bootstrap
from .records import Detections, Truth
from .scores import best_thresholds
from .tide import Errors, costs, find_errors

__all__ = ["Result", "analyse"]


@dataclass
class Result:
    """What a model found, and how good it is. For letters, see the modules of the numbers."""

    name: str  # of the model, in the pages
    truth: Truth
    detections: Detections
    matches: Matches
    curves: Curves
    precisions: np.ndarray  # (1, K, A, T)
    resampled: np.ndarray  # (R, K, A, T)
    errors: Errors
    costs: dict
    thresholds: list  # of K Threshold
    shown: np.ndarray  # (N,), bool: detections at or above the threshold of their class
    confusion: np.ndarray  # (K + 1, K + 1)
    images: pd.DataFrame  # a row for each
    stages: list  # of Detections; [] without stages
    history: object  # StageHistory; None without stages

    @property
    def found(self):
        """ndarray: (M,), bool: objects that detections above their threshold find."""
        return self.errors.found(self.truth, self.shown)


def analyse(name, truth, run, resamples=500, seed=0):
    """
    Args:
        name (str): of the model.
        truth (Truth): the objects.
        run (Run): what the model found.
        resamples (int): R, of the bootstrap.
        seed (int): of the bootstrap.

    Returns:
        Result: everything.
    """
    detections = run.detections
    matches = match(truth, detections)
    curves = Curves(truth, detections, matches)
    errors = find_errors(truth, detections, matches)
    thresholds = best_thresholds(truth, detections, matches)
    lowest = np.array([x.score for x in thresholds])
    shown = errors.shown(detections, lowest)
    return Result(
        name=name,
        truth=truth,
        detections=detections,
        matches=matches,
        curves=curves,
        precisions=curves.average_precisions(),
        resampled=bootstrap(curves, resamples, seed),
        errors=errors,
        costs=costs(truth, detections, matches, errors),
        thresholds=thresholds,
        shown=shown,
        confusion=confusion_matrix(truth, detections, errors, shown),
        images=image_table(truth, detections, errors, lowest, run.losses),
        stages=run.stages,
        history=run.history,
    )

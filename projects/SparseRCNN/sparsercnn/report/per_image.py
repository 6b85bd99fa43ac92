"""How good the detections of each image are, and which image a second model is better on."""

import numpy as np
import pandas as pd
from scipy import stats

from ..analysis.statistics import holm
from .tide import KINDS

__all__ = ["compare_objects", "image_table"]

_FOUND = 0.5  # IoU


def image_table(truth, detections, errors, thresholds, losses=None):
    """Errors of each image.

    The LRP error (Oksuz and others, ECCV 2018, equation 3) is the mean over finds, wrong
    detections and objects not found: of a find, 2 x (1 - IoU), of all others, 1.

    Args:
        truth (Truth): the objects.
        detections (Detections): what was found.
        errors (Errors): of them.
        thresholds (ndarray): (K,), lowest score of each class that is taken.
        losses (ndarray): (I,), the model's own; None: it has none.

    Returns:
        DataFrame: a row for each image: "image", its file; "objects"; "loss", NaN without
        `losses`; "LRP", 0 to 1; and counts of detections by kind, "right", "cls", "loc", "both",
        "dup", "bkg", and of objects "miss", see :mod:`~sparsercnn.report.tide`.
    """
    number = truth.num_images
    chosen = errors.shown(detections, thresholds)

    def count(image, condition):
        return np.bincount(image[condition], minlength=number)

    objects = count(truth.image, ~truth.crowd)
    kinds = {
        name: count(detections.image, chosen & (errors.kind == k))
        for k, name in enumerate(KINDS[:-1])
    }
    finds = chosen & (errors.kind == 0)
    # A find on an IoU of exactly 0.5 may come out a little below.
    distance = np.minimum((1 - errors.iou[finds]) / (1 - _FOUND), 1)
    total = np.bincount(detections.image[finds], distance, minlength=number)
    wrong = sum(kinds[name] for name in KINDS[1:-1]) + objects - kinds["right"]
    table = {"image": truth.files, "objects": objects}
    table |= {"loss": np.full(number, np.nan) if losses is None else losses}
    table |= {"LRP": (total + wrong) / np.maximum(kinds["right"] + wrong, 1), **kinds}
    return pd.DataFrame({**table, "miss": count(truth.image, errors.missed(truth, chosen))})


def compare_objects(truth, first, second):
    """Whether a model finds objects that another does not: McNemar's exact test.

    Args:
        truth (Truth): the objects.
        first, second (ndarray): (M,), bool: objects found by each model.

    Returns:
        DataFrame: a row for all classes, and for each with objects: "class", "objects", found by
        "both", "only first", "only second", "neither"; "p", two-sided, of as many on one side if
        both models were equally good (NaN if they do not differ), and of the single classes
        "p corrected" by Holm. Objects of one image are not independent, so p is somewhat too small.
    """
    rows = []
    for name, own in [
        ("all", ~truth.crowd),
        *((x, ~truth.crowd & (truth.classes == k)) for k, x in enumerate(truth.class_names)),
    ]:
        a, b = first[own], second[own]
        if not len(a):
            continue
        counts = {"both": a & b, "only first": a & ~b, "only second": ~a & b, "neither": ~(a | b)}
        counts = {key: int(values.sum()) for key, values in counts.items()}
        less, more = sorted((counts["only first"], counts["only second"]))
        p = stats.binomtest(less, less + more).pvalue if more else np.nan
        rows.append({"class": name, "objects": len(a), **counts, "p": p})
    table = pd.DataFrame(rows)
    return table.assign(**{"p corrected": [np.nan, *holm(table["p"][1:])]})

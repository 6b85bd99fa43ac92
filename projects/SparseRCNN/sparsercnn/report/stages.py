"""What the stages of an iterative head do with the proposals, over all images.

Dimension letters: I images, T stages, N proposals.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .matching import match
from .precision import Curves, summaries

__all__ = ["StageHistory", "ap_by_stage", "movement", "proposal_places"]


@dataclass
class StageHistory:
    """The proposals of all images."""

    boxes: np.ndarray  # (I, T + 1, N, 4), float32, xyxy as fractions, before and after each stage
    classes: np.ndarray  # (I, T, N), of the highest score
    scores: np.ndarray  # (I, T, N), the highest
    positives: np.ndarray  # (I, T), proposals assigned to an object
    num_objects: np.ndarray  # (I,)

    @classmethod
    def of(cls, traces):
        """From a list of :class:`~sparsercnn.analysis.stages.StageTrace`."""

        def stack(name, kind):
            return np.stack([np.asarray(getattr(x, name), kind) for x in traces])

        return cls(
            boxes=stack("boxes", np.float32),
            classes=stack("classes", np.int16),
            scores=stack("scores", np.float32),
            positives=stack("positives", np.float32),
            num_objects=np.array([x.num_objects for x in traces]),
        )


def ap_by_stage(truth, stages):
    """AP, AP50 and AP75 of each stage, as if it were the last.

    Args:
        truth (Truth): the objects.
        stages (list[Detections]): of each stage.

    Returns:
        DataFrame: a row for each stage: "stage" from 1, "AP", "AP50", "AP75", in percent, and
        "gain" of AP over the stage before.
    """
    rows = []
    for found in stages:
        curves = Curves(truth, found, match(truth, found))
        values = summaries(curves.average_precisions())
        rows.append({name: values[name][0] for name in ("AP", "AP50", "AP75")})
    table = pd.DataFrame(rows)
    table.insert(0, "stage", np.arange(1, len(rows) + 1))
    return table.assign(gain=table["AP"].diff())


def movement(history, threshold=0.3):
    """How far boxes move at each stage, and how many proposals change their class.

    Args:
        history (StageHistory): of all images.
        threshold (float): lowest score at the last stage of the proposals in the columns "of kept".

    Returns:
        DataFrame: a row for each stage: "stage" from 1; means over all proposals and over those
        that are kept of "IoU" with the box before the stage and "shift" of the centre, in parts of
        the image's diagonal; "change class", share of those whose best class is another than at
        the stage before (NaN at the first); "positives", proposals assigned to each object.
    """
    kept = history.scores[:, -1] >= threshold
    rows = []
    for t in range(history.classes.shape[1]):
        before, after = history.boxes[:, t], history.boxes[:, t + 1]
        columns = {
            "IoU": _paired_iou(before, after),
            "shift": np.linalg.norm(_centres(after) - _centres(before), axis=-1) / np.sqrt(2),
        }
        if t:
            columns["change class"] = history.classes[:, t] != history.classes[:, t - 1]
        means = {name: float(x.mean()) for name, x in columns.items()}
        means |= {f"{name} of kept": _mean(x[kept]) for name, x in columns.items()}
        objects = max(int(history.num_objects.sum()), 1)
        positives = float(history.positives[:, t].sum() / objects)
        rows.append({"stage": t + 1, **means, "positives": positives})
    names = ("IoU", "shift", "change class")
    order = ["stage", *names, *(f"{name} of kept" for name in names), "positives"]
    return pd.DataFrame(rows).reindex(columns=order)


def proposal_places(history, class_names):
    """Where each proposal ends up over all images, and as what.

    Args:
        history (StageHistory): of all images.
        class_names (list[str]): of the K classes.

    Returns:
        DataFrame: a row for each proposal: "proposal"; "uses", images in which its last score is
        the best of its image or at least 0.3; means over all images of the last box's centre "x",
        "y", "width", "height", as fractions; "spread", root mean square distance of the centre from
        its mean; the most frequent "class" and its "share"; "first x" to "first height" of the box
        that it starts from.
    """
    last, first = history.boxes[:, -1], history.boxes[:, 0].mean(axis=0)
    centres = _centres(last)
    sizes = last[..., 2:] - last[..., :2]
    middle = centres.mean(axis=0)
    spread = np.sqrt(((centres - middle) ** 2).sum(axis=-1).mean(axis=0))
    scores, classes = history.scores[:, -1], history.classes[:, -1]
    uses = ((scores >= 0.3) | (scores == scores.max(axis=1, keepdims=True))).sum(axis=0)
    counts = np.stack([(classes == k).sum(axis=0) for k in range(len(class_names))])
    best = counts.argmax(axis=0)
    table = {"proposal": np.arange(last.shape[1]), "uses": uses}
    table |= dict(zip(("x", "y"), middle.T, strict=True))
    table |= dict(zip(("width", "height"), sizes.mean(axis=0).T, strict=True))
    table |= {"spread": spread, "class": [class_names[k] for k in best]}
    table |= {"share": counts.max(axis=0) / len(last)}
    start = np.concatenate([_centres(first), first[:, 2:] - first[:, :2]], axis=1)
    table |= {f"first {x}": v for x, v in zip(("x", "y", "width", "height"), start.T, strict=True)}
    return pd.DataFrame(table)


def _centres(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _mean(values):
    return float(values.mean()) if len(values) else float("nan")


def _paired_iou(first, second):
    """(..., 4) each -> (...)."""
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clip(min=0).prod(axis=-1)
    areas = [(x[..., 2:] - x[..., :2]).clip(min=0).prod(axis=-1) for x in (first, second)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)

"""What a user has chosen to see of a result: as a picture, a table, json and CSV."""

import csv
import io
import json
from typing import NamedTuple

import numpy as np
from detectron2.structures import Boxes, Instances

from ..inference.detections import Detections
from ..inference.drawing import readable_scale

__all__ = ["Choice", "choose", "describe", "draw", "entries", "table", "to_csv", "to_json"]

_CSV = ("image_id", "file_name", "category_id", "category_name", "score")
_BOX = ("x", "y", "width", "height")
_PICTURE_SIDE = 1600  # a drawn picture is at most so wide and high: enough for a screen


class Choice(NamedTuple):
    """What is to be seen."""

    threshold: float = 0.5  # lowest score
    stage: int | None = None  # from 1; None or too large: the last one
    classes: tuple[str, ...] = ()  # names; none: all classes


def choose(stages, choice):
    """The chosen part of the results of one image.

    Args:
        stages (list[Detections | Segmentation]): of each stage.
        choice (Choice): of a segmentation, only :func:`draw`, :func:`entries` and :func:`table`
            look at its classes.

    Returns:
        Detections | Segmentation: of one stage.
    """
    number = len(stages) if choice.stage is None else min(choice.stage, len(stages))
    result = stages[max(number, 1) - 1].above(choice.threshold)
    if choice.classes and isinstance(result, Detections):
        result = result[np.isin(np.array(result.names, dtype=str), choice.classes)]
    return result


def describe(result, choice):
    """A few words on what was found, such as "3 detections"."""
    number = len(table(result, choice)[1])
    word = "detection" if isinstance(result, Detections) else "class"
    plural = {"detection": "detections", "class": "classes"}
    return f"{number} {word if number == 1 else plural[word]}"


def draw(result, choice):
    """Draw a result; of a segmentation, only the chosen classes.

    Args:
        result (Detections | Segmentation): from :func:`choose`.
        choice (Choice): as for :func:`choose`.

    Returns:
        ndarray: (H', W', 3), uint8, RGB; larger than a small image, smaller than a large one.
    """
    result = _shrink(result)
    scale = min(readable_scale(result.image), _PICTURE_SIDE // max(result.image.shape[:2]))
    drawn = result.plot(scale)
    if isinstance(result, Detections) or not choice.classes:
        return drawn
    wanted = [i for i, x in zip(result.classes, result.names, strict=True) if x in choice.classes]
    keep = np.isin(result.labels, wanted)
    keep, image = (x.repeat(scale, axis=0).repeat(scale, axis=1) for x in (keep, result.image))
    return np.where(keep[:, :, None], drawn, image)


def _shrink(result):
    """The result for a smaller copy of a large image, each n-th row and column."""
    step = -(-max(result.image.shape[:2]) // _PICTURE_SIDE)
    if step == 1:
        return result
    image = np.ascontiguousarray(result.image[::step, ::step])
    if not isinstance(result, Detections):
        output = {"sem_seg": result.output["sem_seg"][:, ::step, ::step]}
        return type(result)(output, result.class_names, image, result.file_name)
    instances = Instances(image.shape[:2], **result.instances.get_fields())
    instances.pred_boxes = Boxes(instances.pred_boxes.tensor / step)
    if instances.has("pred_masks"):
        instances.pred_masks = instances.pred_masks[:, ::step, ::step]
    return type(result)({"instances": instances}, result.class_names, image, result.file_name)


def entries(result, choice):
    """The list that the demo writes to ``detections.json`` for a result, without other classes."""
    found = result.to_dict()
    return [x for x in found if not choice.classes or x["category_name"] in choice.classes]


def table(result, choice):
    """What was found, for a reader.

    Returns:
        tuple[list[str], list[list]]: titles of the columns, and the rows.
    """
    if isinstance(result, Detections):
        rows = [
            [x["category_name"], round(x["score"], 3), *(round(v, 1) for v in x["bbox"])]
            for x in entries(result, choice)
        ]
        return ["class", "score", *_BOX], rows
    counts = np.bincount(result.labels.ravel())
    rows = [
        [name, int(counts[index]), f"{counts[index] / counts.sum():.1%}"]
        for index, name in zip(result.classes, result.names, strict=True)
        if not choice.classes or name in choice.classes
    ]
    return ["class", "pixels", "share"], rows


def to_json(found):
    """The text of the demo's ``detections.json`` for entries from :func:`entries`."""
    return json.dumps(found)


def to_csv(found):
    """Entries from :func:`entries` as CSV, in their order, without masks.

    Returns:
        str: with a line of titles; "score" and the box (x, y, width, height in pixels) are empty
        for a segmentation.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_CSV, *_BOX])
    for x in found:
        writer.writerow([*(x.get(key) for key in _CSV), *x.get("bbox", [None] * 4)])
    return text.getvalue()

"""What is in data sets, and what is odd in them.

Dimension letters: I images of all data sets, M objects, N detections, K classes.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..image_files import image_size
from ..start.duplicates import group_similar
from .records import Truth, pairwise_iou, slices
from .tide import KINDS

__all__ = [
    "OBJECT_ODDITIES",
    "Similar",
    "Suspicions",
    "find_odd_images",
    "find_odd_objects",
    "find_similar",
    "find_suspicions",
    "merge",
    "shapes_of",
]

OBJECT_ODDITIES = {
    "no area": "boxes without width or height",
    "outside": "boxes that reach out of the image",
    "repeated": "boxes of one class on the same place",
    "two classes": "boxes of two classes on the same place",
    "tiny": "tiny boxes",
    "huge": "boxes of nearly the whole image",
}
_SAME_PLACE = 0.9  # IoU
_TINY = 4  # pixels of the shorter side
_HUGE = 0.9  # of the image's area
_OUTSIDE = 1.0  # pixels; less is a matter of rounding
_SEEN = 0.05  # score


def merge(truths):
    """Data sets as one, with the classes of all by name.

    Args:
        truths (list[Truth]): at least one.

    Returns:
        tuple[Truth, ndarray]: all images in the order of the data sets, and (I,), the number of
        each image's data set. Ids of images are those of their own data sets.
    """
    names = list(dict.fromkeys(name for x in truths for name in x.class_names))
    starts = np.cumsum([0, *(x.num_images for x in truths)])
    arrays = {
        field: np.concatenate([getattr(x, field) for x in truths])
        for field in ("sizes", "boxes", "areas", "crowd", "annotated")
    }
    images = [x.image + start for x, start in zip(truths, starts, strict=False)]
    classes = [np.array([names.index(n) for n in x.class_names])[x.classes] for x in truths]
    merged = Truth(
        name=", ".join(x.name for x in truths),
        class_names=names,
        category_ids=list(range(len(names))),
        image_ids=[i for x in truths for i in x.image_ids],
        files=[path for x in truths for path in x.files],
        image=np.concatenate(images).astype(np.int32),
        classes=np.concatenate(classes).astype(np.int32),
        num_unknown=sum(x.num_unknown for x in truths),
        **arrays,
    )
    return merged, np.repeat(np.arange(len(truths)), [x.num_images for x in truths])


def shapes_of(truth):
    """Sizes of the objects.

    Returns:
        DataFrame: a row for each of M objects: "width" and "height" in pixels, "size", the square
        root of the area, and "aspect", width over height, NaN without area.
    """
    width, height = (truth.boxes[:, 2:] - truth.boxes[:, :2]).T
    area = np.maximum(width, 0) * np.maximum(height, 0)
    aspect = np.divide(width, height, out=np.full(len(width), np.nan), where=area > 0)
    return pd.DataFrame({"width": width, "height": height, "size": np.sqrt(area), "aspect": aspect})


def find_odd_objects(truth):
    """
    Args:
        truth (Truth): the objects; crowds are never odd.

    Returns:
        dict[str, ndarray]: for each name of OBJECT_ODDITIES (M,), bool. Boxes reach out if they do
        so by more than a pixel; are on one place at an IoU of 0.9, the later one in the file is
        then odd; are tiny below 4 pixels of the shorter side; huge from nine tenths of the image.
    """
    shapes = shapes_of(truth)
    limits = truth.sizes[truth.image].astype(float)
    beyond = np.maximum(-truth.annotated[:, :2], truth.annotated[:, 2:] - limits).max(axis=1)
    without = (shapes["size"] == 0).to_numpy()
    side = shapes[["width", "height"]].min(axis=1).to_numpy()
    share = shapes["size"].to_numpy() ** 2 / np.maximum(limits.prod(axis=1), 1)
    same, other = _on_one_place(truth)
    odd = {
        "no area": without,
        "outside": beyond > _OUTSIDE,
        "repeated": same,
        "two classes": other,
        "tiny": ~without & (side < _TINY),
        "huge": share >= _HUGE,
    }
    return {name: values & ~truth.crowd for name, values in odd.items()}


def _on_one_place(truth):
    """Objects (M,), bool, at the place of one before them: of their class, and of another."""
    same, other = np.zeros((2, len(truth.image)), bool)
    for own in slices(truth.image, truth.num_images):
        near = np.tril(pairwise_iou(truth.boxes[own], truth.boxes[own]) >= _SAME_PLACE, -1)
        near &= ~truth.crowd[own][None]
        equal = truth.classes[own][:, None] == truth.classes[own][None]
        same[own], other[own] = (near & equal).any(axis=1), (near & ~equal).any(axis=1)
    return same, other


def find_odd_images(truth):
    """
    Args:
        truth (Truth): the images, whose headers are read.

    Returns:
        dict[str, ndarray]: (I,), bool: "empty", without objects; "unreadable"; and "wrong size",
        another one than annotated.
    """
    sizes = np.array([image_size(path) for path in truth.files]).reshape(-1, 2)
    unreadable = (sizes == 0).any(axis=1)
    objects = np.bincount(truth.image[~truth.crowd], minlength=truth.num_images)
    wrong = ~unreadable & (sizes != truth.sizes).any(axis=1)
    return {"empty": objects == 0, "unreadable": unreadable, "wrong size": wrong}


@dataclass
class Similar:
    """Images that look nearly the same.

    Attributes:
        group (ndarray): (I,), number of the group, from 0; -1: like no other image.
        across (ndarray): (I,), bool: its group has images of several data sets.
        level (float): the correlation of the images' thumbnails above which they are in one group;
            None: all look the same, as from a camera that does not move, and there are no groups.
    """

    group: np.ndarray
    across: np.ndarray
    level: float | None


def find_similar(files, set_of):
    """
    Args:
        files (list[str]): I image files.
        set_of (ndarray): (I,), number of each image's data set.

    Returns:
        Similar: groups as :func:`~sparsercnn.start.duplicates.group_similar` finds them.
    """
    groups = group_similar(files)
    index = groups.index
    large = np.bincount(index) > 1
    numbers = np.where(large, np.cumsum(large) - 1, -1)
    lowest, highest = np.full((2, len(large)), -1)
    for number in range(set_of.max() + 1):
        present = np.unique(index[set_of == number])
        highest[present] = number
        lowest[present] = np.where(lowest[present] < 0, number, lowest[present])
    return Similar(numbers[index], (lowest != highest)[index], groups.level)


@dataclass
class Suspicions:
    """Where a model contradicts the labels.

    Attributes:
        lowest (ndarray): (K,), score from which the model is sure of a class.
        wrong_class (ndarray): (N,), bool: detections on an object that is labelled otherwise.
        no_label (ndarray): (N,), bool: detections of what has no label.
        inexact (ndarray): (N,), bool: detections whose object has a box that fits badly.
        unseen (ndarray): (M,), bool: objects where the model sees nothing.
    """

    lowest: np.ndarray
    wrong_class: np.ndarray
    no_label: np.ndarray
    inexact: np.ndarray
    unseen: np.ndarray


def find_suspicions(truth, detections, errors):
    """Labels that a model contradicts where it is sure.

    It is sure of a class from the mean score of its right detections of it, as in confident
    learning (Northcutt and others, JAIR 70, 2021, equation 2). What it is sure of is suspicious if
    TIDE's error is cls, bkg or loc and, of cls and loc, no sure detection finds the object. Unseen
    are objects that no detection of at least 0.05 is near, whatever its class.

    Args:
        truth (Truth): the objects.
        detections (Detections): of a model, best one that has not been trained on these images.
        errors (Errors): of the detections.

    Returns:
        Suspicions: all of them.
    """
    right = errors.kind == KINDS.index("right")
    lowest = np.ones(truth.num_classes)
    for k in range(truth.num_classes):
        scores = detections.scores[right & (detections.classes == k)]
        # Finds of a low score are chance as long as there are better ones.
        scores = scores[scores >= _SEEN]
        lowest[k] = scores.mean() if len(scores) else 1.0
    sure = detections.scores >= lowest[detections.classes]
    free = np.append(~errors.found(truth, sure), False)  # -1: no object

    def suspicious(kind):
        chosen = sure & (errors.kind == KINDS.index(kind))
        return chosen & free[errors.object] if kind != "bkg" else chosen

    seen = detections.scores >= _SEEN
    near = np.zeros(len(truth.image), bool)
    of_image = slices(truth.image, truth.num_images)
    for objects, own in zip(of_image, slices(detections.image, truth.num_images), strict=True):
        iou = pairwise_iou(detections.boxes[own][seen[own]], truth.boxes[objects])
        near[objects] = (iou >= 0.1).any(axis=0)
    return Suspicions(
        lowest, suspicious("cls"), suspicious("bkg"), suspicious("loc"), ~near & ~truth.crowd
    )

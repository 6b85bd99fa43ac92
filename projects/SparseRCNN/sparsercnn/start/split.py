"""Division of a data set into images to train on and images to evaluate on."""

from dataclasses import dataclass

import numpy as np

from ..errors import DataError

__all__ = ["Division", "divide", "stratify"]


@dataclass
class Division:
    """Which images are trained on."""

    train: list  # indices of images, sorted
    val: list


def divide(content, groups, val_fraction, seed):
    """Divide the images of a file in COCO's format.

    Args:
        content (dict): in COCO's format.
        groups (ndarray): (n,), int: images of the same number stay together.
        val_fraction (float): share of the images to evaluate on.
        seed (int): decides between divisions that are equally good.

    Returns:
        tuple[dict, dict]: the parts, in COCO's format, with all categories.

    Raises:
        DataError: there are fewer than two groups of images.
    """
    images = content["images"]
    row = {image["id"]: i for i, image in enumerate(images)}
    column = {category["id"]: k for k, category in enumerate(content["categories"])}
    has_class = np.zeros((len(images), len(column)), bool)
    for annotation in content["annotations"]:
        # Unknown categories and images are reported by the check of the data set.
        if annotation["category_id"] in column and annotation["image_id"] in row:
            has_class[row[annotation["image_id"]], column[annotation["category_id"]]] = True
    division = stratify(has_class, groups, val_fraction, seed)
    return _part(content, division.train), _part(content, division.val)


def stratify(has_class, groups, val_fraction, seed):
    """Divide images so that each class has its share on both sides.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of
    multi-label data", 2011), of groups instead of single images: of the class with the fewest
    images that are not placed yet, the largest group goes to the side that lacks most images of
    that class, then most images at all; the seed breaks ties.

    Args:
        has_class (ndarray): (n, K), bool: which classes each image has.
        groups (ndarray): (n,), int: images of the same number stay together.
        val_fraction (float): share of the images in `val`, between 0 and 1.
        seed (int): of the ties.

    Returns:
        Division: indices of the images; neither side is empty.

    Raises:
        DataError: there are fewer than two groups of images.
    """
    _, groups = np.unique(groups, return_inverse=True)
    num_groups = groups.max(initial=-1) + 1
    if num_groups < 2:
        raise DataError(
            f"{len(groups)} images, of which {num_groups} differ, cannot be divided into images to "
            "train on and images to evaluate on. Give those to evaluate on as a split of its own."
        )
    # The last class is "any image": those without objects are placed by it, at the end.
    classes = np.concatenate([has_class, np.ones((len(groups), 1), bool)], axis=1)
    counts = np.zeros((num_groups, classes.shape[1]), np.int64)
    np.add.at(counts, groups, classes)
    shares = np.array([1 - val_fraction, val_fraction])
    lacking = shares[:, None] * counts.sum(
        axis=0
    )  # (2, K + 1): images of a class that a side lacks
    rng = np.random.default_rng(seed)
    order = rng.permutation(num_groups)
    side = np.full(num_groups, -1)
    waiting = counts.sum(axis=0)  # (K + 1,): images that are not placed yet
    while waiting[-1]:
        rarest = waiting[:-1].nonzero()[0]
        k = rarest[waiting[rarest].argmin()] if len(rarest) else -1
        candidates = order[(side[order] < 0) & (counts[order, k] > 0)]
        group = candidates[counts[candidates, -1].argmax()]
        want = [(lacking[s, k], lacking[s, -1]) for s in (0, 1)]
        side[group] = int(want[1] > want[0]) if want[0] != want[1] else rng.integers(2)
        lacking[side[group]] -= counts[group]
        waiting -= counts[group]
    for empty in (0, 1):  # of very few groups
        if not (side == empty).any():
            side[order[counts[order, -1].argmin()]] = empty
    in_val = side[groups] == 1
    return Division(np.flatnonzero(~in_val).tolist(), np.flatnonzero(in_val).tolist())


def _part(content, indices):
    images = [content["images"][i] for i in indices]
    ids = {image["id"] for image in images}
    annotations = [x for x in content["annotations"] if x["image_id"] in ids]
    return {**content, "images": images, "annotations": annotations}

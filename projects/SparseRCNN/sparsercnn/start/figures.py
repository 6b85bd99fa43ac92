"""What is counted of a data set before a config is chosen for it."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Figures", "count"]


@dataclass
class Figures:
    """Counts of the images to train on; sizes are in pixels of the image files."""

    class_names: list  # of str, in the order of the model's classes
    class_counts: list  # objects of each class
    num_images: int
    num_val_images: int
    objects_mean: float  # per image
    objects_95: int  # 95th and 99th percentile, and the most objects of an image
    objects_99: int
    objects_most: int
    size_5: float  # 5th percentile and median of sqrt(width x height) of objects
    size_median: float
    side_median: float  # shorter side of an image
    aspect: float  # longer side over shorter side, 99th percentile

    @property
    def num_objects(self):
        """int: of all classes."""
        return sum(self.class_counts)


def count(records, num_val_images, class_names):
    """
    Args:
        records (list[dict]): images to train on, valid, in detectron2's format. Crowds, which are
            not trained on, do not count.
        num_val_images (int): images to evaluate on.
        class_names (sequence[str]): of the data set.

    Returns:
        Figures: the counts; of sizes of objects, 0 if there are none.
    """
    objects = [[x for x in r["annotations"] if not x.get("iscrowd", 0)] for r in records]
    boxes = np.array([x["bbox"] for image in objects for x in image]).reshape(-1, 4)
    sizes = np.sqrt(boxes[:, 2] * boxes[:, 3]) if len(boxes) else np.zeros(1)
    numbers = np.array([len(image) for image in objects])
    classes = np.array([x["category_id"] for image in objects for x in image], int)
    sides = np.array([(r["width"], r["height"]) for r in records])
    return Figures(
        class_names=list(class_names),
        class_counts=np.bincount(classes, minlength=len(class_names)).tolist(),
        num_images=len(records),
        num_val_images=num_val_images,
        objects_mean=float(numbers.mean()),
        objects_95=int(np.percentile(numbers, 95, method="higher")),
        objects_99=int(np.percentile(numbers, 99, method="higher")),
        objects_most=int(numbers.max()),
        size_5=float(np.percentile(sizes, 5)),
        size_median=float(np.median(sizes)),
        side_median=float(np.median(sides.min(axis=1))),
        aspect=float(np.percentile(sides.max(axis=1) / sides.min(axis=1), 99)),
    )

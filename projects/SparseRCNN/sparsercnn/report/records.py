"""Objects and detections of a whole data set, as arrays.

Dimension letters: I images, M objects, N detections, K classes. Boxes are xyxy in pixels of the
image file.
"""

import json
import os
from dataclasses import dataclass

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..data.coco import complete, ensure_json_file, read_coco
from ..data.files import read_text
from ..errors import DataError

__all__ = ["Detections", "Truth", "as_detections", "pairwise_iou", "read_detections", "read_truth"]


@dataclass
class Truth:
    """Images in the order of their ids, as pycocotools has them, and their objects, by image."""

    name: str  # of the data set
    class_names: list  # of K str
    category_ids: list  # of K, the data set's own
    image_ids: list  # of I
    files: list  # of I paths
    sizes: np.ndarray  # (I, 2) width and height
    image: np.ndarray  # (M,) index of the image
    classes: np.ndarray  # (M,) from 0
    boxes: np.ndarray  # (M, 4)
    areas: np.ndarray  # (M,) as annotated, often of a mask, by which COCO tells sizes
    crowd: np.ndarray  # (M,) bool
    annotated: np.ndarray  # (M, 4) before boxes were clipped to their image
    num_unknown: int = 0  # objects of no class, which are left out

    @property
    def num_images(self):
        """int: I."""
        return len(self.image_ids)

    @property
    def num_classes(self):
        """int: K."""
        return len(self.class_names)


@dataclass
class Detections:
    """Detections by image, best first within an image."""

    image: np.ndarray  # (N,) index of the image
    classes: np.ndarray  # (N,) from 0
    boxes: np.ndarray  # (N, 4)
    scores: np.ndarray  # (N,) 0 to 1

    def __len__(self):
        return len(self.image)

    def __getitem__(self, index):
        fields = (self.image, self.classes, self.boxes, self.scores)
        return Detections(*(values[index] for values in fields))

    @classmethod
    def sort(cls, image, classes, boxes, scores):
        """From lists or arrays in any order; equal scores stay in theirs."""
        image, classes = np.asarray(image, np.int32), np.asarray(classes, np.int32)
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        scores = np.asarray(scores, np.float64)
        return cls(image, classes, boxes, scores)[np.lexsort((-scores, image))]


def read_truth(name):
    """Read the annotations against which a data set is evaluated.

    Args:
        name (str): a registered data set, in COCO's format or registered in Python for COCO's
            evaluation.

    Returns:
        Truth: all its images and objects.

    Raises:
        DataError: there is no such file, it is malformed, or it has no annotations.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") == "coco":
        ensure_json_file(name)
    path = metadata.get("json_file")
    if not path or not metadata.get("thing_classes"):
        raise DataError(
            f"{name} has no annotations of objects in COCO's format; name a detection data set, "
            "such as coco:ANNOTATIONS.json@IMAGE_DIR."
        )
    content = complete(read_coco(PathManager.get_local_path(path)))
    if "annotations" not in content:
        raise DataError(f"{path} has no annotations; a report needs objects to compare with.")
    return as_truth(content, name, metadata)


def as_truth(content, name, metadata):
    """Annotations in COCO's format (dict) as :class:`Truth`, with a data set's metadata."""
    indices = metadata.get("thing_dataset_id_to_contiguous_id")
    if indices is None:  # as in detectron2
        indices = {k: k for k in range(len(metadata.thing_classes))}
    images = sorted(content["images"], key=lambda x: x["id"])
    place = {x["id"]: number for number, x in enumerate(images)}
    objects = [x for x in content["annotations"] if x["category_id"] in indices]
    objects.sort(key=lambda x: place[x["image_id"]])
    boxes = _corners([x["bbox"] for x in objects])
    return Truth(
        name=name,
        class_names=list(metadata.thing_classes),
        category_ids=sorted(indices, key=indices.get),
        image_ids=[x["id"] for x in images],
        files=[os.path.join(metadata.get("image_root") or "", x["file_name"]) for x in images],
        sizes=np.array([(x["width"], x["height"]) for x in images], np.int64).reshape(-1, 2),
        image=np.array([place[x["image_id"]] for x in objects], np.int32),
        classes=np.array([indices[x["category_id"]] for x in objects], np.int32),
        boxes=boxes,
        areas=np.array([x["area"] for x in objects], np.float64),
        crowd=np.array([bool(x["iscrowd"]) for x in objects], bool),
        annotated=_corners([x.get("annotated_bbox", x["bbox"]) for x in objects]),
        num_unknown=len(content["annotations"]) - len(objects),
    )


def _corners(boxes):
    """(n, 4) xyxy of a list of x, y, width, height."""
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def read_detections(path, truth):
    """Read a file of COCO results, such as the ``coco_instances_results.json`` of an evaluation.

    Args:
        path (str | Path): the file.
        truth (Truth): of the same data set.

    Returns:
        Detections: all of the file's.

    Raises:
        MissingFileError: the file does not exist.
        DataError: it is no list of results, or of another data set.
    """
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: malformed json: {error}. Correct the file.") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: COCO's results are a list, with an entry for each detection.")
    return as_detections(content, truth, path)


def as_detections(results, truth, source="results"):
    """COCO results (list[dict]) as :class:`Detections`; see :func:`read_detections`."""
    places = {x: number for number, x in enumerate(truth.image_ids)}
    classes = {x: number for number, x in enumerate(truth.category_ids)}
    try:
        boxes = _corners([x["bbox"] for x in results])
        columns = [places[x["image_id"]] for x in results], [x["score"] for x in results]
        unknown = {x["category_id"] for x in results} - set(classes)
    except KeyError as error:
        raise DataError(
            f"{source}: an entry lacks, or {truth.name} does not have, {error}. Each needs an "
            "image_id of the data set, category_id, bbox and score. Give the file of this data set."
        ) from None
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: an entry is no COCO result of a box: {error}.") from error
    if unknown:
        raise DataError(
            f"{source}: {truth.name} has no category {min(unknown, key=str)!r}; it has "
            f"{truth.category_ids[:10]}. Give the file of this data set."
        )
    image, scores = columns
    if not (np.isfinite(boxes).all() and np.isfinite(np.array(scores, np.float64)).all()):
        raise DataError(f"{source}: a box or a score is not finite.")
    return Detections.sort(image, [classes[x["category_id"]] for x in results], boxes, scores)


def pairwise_iou(first, second, crowd=None):
    """Intersection over union, of pairs of boxes.

    Args:
        first (ndarray): (N, 4).
        second (ndarray): (M, 4).
        crowd (ndarray): (M,), bool: for these, over the area of the first box instead.

    Returns:
        ndarray: (N, M), 0 where both have no area.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    if crowd is not None:
        union = np.where(crowd[None], areas[0][:, None], union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def slices(sorted_index, count):
    """For each of 0 to `count` - 1, the slice of its entries in a sorted array of integers."""
    ends = np.searchsorted(sorted_index, np.arange(count + 1))
    return [slice(a, b) for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]

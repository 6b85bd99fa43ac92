"""What a model found in one image: as arrays, as a picture, as json.

Dimension letters: N detections or regions; K classes; H, W size of the image.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..extras import require_extra
from ..image_files import load_image
from .results import above_threshold, coco_results
from .thresholds import check_threshold

__all__ = ["Detection", "Detections", "Region", "Segmentation", "make_result"]


def _equal(self, other):
    """Equality of tuples of arrays, on which Python's own fails."""
    return type(self) is type(other) and all(map(np.array_equal, self, other))


def _differ(self, other):
    return not _equal(self, other)


class Detection(NamedTuple):
    """One object that was found."""

    box: np.ndarray  # (4,), absolute xyxy
    score: float
    class_index: int
    name: str
    mask: np.ndarray | None  # (H, W), bool

    __eq__, __ne__ = _equal, _differ


class Region(NamedTuple):
    """All pixels of one class."""

    class_index: int
    name: str
    mask: np.ndarray  # (H, W), bool

    __eq__, __ne__ = _equal, _differ


class _Result(Sequence):
    """What detections and segmentations share.

    Attributes:
        output (dict): the model's output as detectron2 gives it, on the CPU.
        class_names (ClassNames): names and ids of the model's classes.
        file_name (str): the image file; None for an image from memory.
    """

    def __init__(self, output, class_names, image=None, file_name=None):
        """
        Args:
            output (dict): see above, in the size of the image.
            class_names (ClassNames): see above.
            image (ndarray): (H, W, 3), uint8, RGB; None: it is read from `file_name` when it is
                asked for, so that the results of many files take little memory.
            file_name (str): see above.
        """
        self.output = output
        self.class_names = class_names
        self.file_name = file_name
        self._image = image

    @property
    def image(self):
        """ndarray: (H, W, 3), uint8, RGB."""
        if self._image is None:
            return load_image(self.file_name, "RGB")
        return self._image

    def plot(self, scale=None):
        """Draw all that was found over the image.

        Args:
            scale (int): factor by which the picture, but not the captions, is enlarged; None: 1 to
                4, so that captions do not hide the objects of a small picture.

        Returns:
            ndarray: (H * scale, W * scale, 3), uint8, RGB.
        """
        require_extra("headless", "cv2")
        from .drawing import draw_predictions, readable_scale  # it imports matplotlib: slow

        image = self.image
        scale = scale or readable_scale(image)
        return draw_predictions(image, self.output, self.class_names, scale)

    def to_dict(self, image_id=1):
        """The entries that the demo writes to ``detections.json`` for the image.

        Args:
            image_id (int): number of the image, in all entries.

        Returns:
            list[dict]: plain values, see :func:`~sparsercnn.inference.results.coco_results`.
        """
        return coco_results(self.output, self.class_names, image_id, self.file_name)

    def above(self, threshold):
        """The detections with a score of at least `threshold`; a segmentation stays whole.

        Args:
            threshold (float | Mapping[str, float]): for all classes, or for each by its name.

        Raises:
            ConfigError: a class of the model has no threshold, or one that is not from 0 to 1.
        """
        return self._with(above_threshold(self.output, threshold))

    def _with(self, output):
        return type(self)(output, self.class_names, self._image, self.file_name)


class Detections(_Result):
    """Objects that were found in an image, best first; a sequence of :class:`Detection`.

    An index that is no integer (a slice, or an array of indices or bool) gives Detections.
    """

    @property
    def instances(self):
        """Instances: with `pred_boxes`, `scores`, `pred_classes` and perhaps `pred_masks`."""
        return self.output["instances"]

    @property
    def boxes(self):
        """ndarray: (N, 4), float32, xyxy in pixels of the image."""
        return self.instances.pred_boxes.tensor.numpy()

    @property
    def scores(self):
        """ndarray: (N,), float32, 0 to 1."""
        return self.instances.scores.numpy()

    @property
    def classes(self):
        """ndarray: (N,), int64, class numbers from 0."""
        return self.instances.pred_classes.numpy()

    def above(self, threshold):
        if isinstance(threshold, Mapping):
            lowest = check_threshold(threshold, self.class_names.things or self.names)
            threshold = torch.tensor([lowest[name] for name in self.names])
        return super().above(threshold)

    @property
    def names(self):
        """list[str]: class names of the N detections."""
        return [self.class_names.thing(index) for index in self.classes.tolist()]

    @property
    def masks(self):
        """ndarray: (N, H, W), bool; None for a model without masks."""
        has_masks = self.instances.has("pred_masks")
        return self.instances.pred_masks.numpy() if has_masks else None

    def __len__(self):
        return len(self.instances)

    def __getitem__(self, index):
        if not isinstance(index, (int, np.integer)):
            chosen = np.arange(len(self))[index].copy()  # tensors take no negative strides
            return self._with({**self.output, "instances": self.instances[chosen]})
        index = range(len(self))[index]
        return Detection(
            self.boxes[index],
            float(self.scores[index]),
            int(self.classes[index]),
            self.class_names.thing(int(self.classes[index])),
            None if self.masks is None else self.masks[index],
        )

    def __repr__(self):
        found = {name: self.names.count(name) for name in dict.fromkeys(self.names)}
        listed = ", ".join(f"{number} x {name}" for name, number in found.items())
        return f"Detections({len(self)}: {listed})" if found else "Detections(0)"


class Segmentation(_Result):
    """The class of each pixel of an image; a sequence of :class:`Region`, by class number.

    An index that is no integer (see :class:`Detections`) gives a list of regions.
    """

    def __init__(self, output, class_names, image=None, file_name=None):
        super().__init__(output, class_names, image, file_name)
        self.labels = output["sem_seg"].argmax(dim=0).numpy()  # (H, W), int64, class numbers

    @property
    def scores(self):
        """ndarray: (K, H, W), logits, or probabilities with TEST.SEM_SEG."""
        return self.output["sem_seg"].numpy()

    @property
    def classes(self):
        """ndarray: (N,), int64, the class numbers that occur, sorted."""
        return np.unique(self.labels)

    @property
    def names(self):
        """list[str]: names of the N classes that occur."""
        return [self.class_names.stuff_name(index) for index in self.classes.tolist()]

    @property
    def masks(self):
        """ndarray: (N, H, W), bool, the pixels of each class that occurs."""
        return self.labels == self.classes[:, None, None]

    def __len__(self):
        return len(self.classes)

    def __getitem__(self, index):
        if not isinstance(index, (int, np.integer)):
            return [self[n] for n in np.arange(len(self))[index]]
        index = range(len(self))[index]
        class_index = int(self.classes[index])
        name = self.class_names.stuff_name(class_index)
        return Region(class_index, name, self.labels == class_index)

    def __repr__(self):
        return f"Segmentation({len(self)}: {', '.join(self.names)})"


def make_result(output, class_names, image=None, file_name=None):
    """:class:`Detections` if `output` has "instances", else :class:`Segmentation`, of these
    arguments."""
    kind = Detections if "instances" in output else Segmentation
    return kind(output, class_names, image, file_name)

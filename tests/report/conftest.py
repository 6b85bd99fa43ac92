"""Data sets and detections of a few boxes."""

import numpy as np
import pytest

from sparsercnn.report.records import Detections, Truth


def make_truth(objects, num_images=1, classes=("a", "b"), crowd=(), size=(100, 100)):
    """Objects given as (image, class, box), in the order of their images."""
    boxes = np.array([x[2] for x in objects], float).reshape(-1, 4)
    return Truth(
        name="few",
        class_names=list(classes),
        category_ids=[10 * (k + 1) for k in range(len(classes))],
        image_ids=[7 + 2 * i for i in range(num_images)],
        files=[f"/data/images/{i}.png" for i in range(num_images)],
        sizes=np.tile(size, (num_images, 1)),
        image=np.array([x[0] for x in objects], np.int32),
        classes=np.array([x[1] for x in objects], np.int32),
        boxes=boxes,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        crowd=np.isin(np.arange(len(objects)), crowd),
        annotated=boxes,
    )


def make_found(detections):
    """Detections given as (image, class, box, score)."""
    return Detections.sort(*([x[n] for x in detections] for n in range(4)))


@pytest.fixture
def truth():
    return make_truth


@pytest.fixture
def found():
    return make_found

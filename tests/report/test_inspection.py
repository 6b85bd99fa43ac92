"""Odd objects and images are found, others are not."""

import numpy as np
import pytest
from PIL import Image

from sparsercnn.data import register_datasets
from sparsercnn.report.findings import Findings
from sparsercnn.report.inspection import (
    find_odd_images,
    find_odd_objects,
    find_similar,
    find_suspicions,
    merge,
    shapes_of,
)
from sparsercnn.report.inspection_sections import inspection_sections
from sparsercnn.report.matching import match
from sparsercnn.report.records import read_truth
from sparsercnn.report.tide import find_errors


def test_odd_objects(truth):
    boxes = {
        "plain": [10, 10, 30, 30],
        "again": [10, 10, 30, 31],
        "other": [10, 11, 30, 31],
        "flat": [5, 5, 5, 20],
        "out": [90, 90, 102, 100],
        "rounded": [90, 50, 100.9, 60],
        "tiny": [50, 50, 53, 60],
        "small": [50, 70, 54, 80],
        "huge": [0, 0, 95, 95],
        "crowd": [0, 0, 100, 100],
    }
    names = list(boxes)
    data = truth([(0, int(name == "other"), boxes[name]) for name in names], crowd=[9])
    odd = find_odd_objects(data)
    expected = {
        "no area": ["flat"],
        "outside": ["out"],
        "repeated": ["again"],
        "two classes": ["other"],
        "tiny": ["tiny"],
        "huge": ["huge"],
    }
    assert {key: [names[i] for i in np.flatnonzero(x)] for key, x in odd.items()} == expected
    shapes = shapes_of(data)
    assert shapes.loc[names.index("tiny"), "size"] == pytest.approx(30**0.5)
    assert shapes.loc[names.index("tiny"), "aspect"] == pytest.approx(0.3)
    assert np.isnan(shapes.loc[names.index("flat"), "aspect"])


def test_boxes_that_voc_clips_are_outside(tmp_path):
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(tmp_path / "JPEGImages/a.png")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a")
    boxes = [(1, 1, 40, 20), (5, 5, 50, 10)]
    objects = "".join(
        f"<object><name>x</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    size = "<size><width>40</width><height>20</height></size>"
    (tmp_path / "Annotations/a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    entry = f"voc:{tmp_path}@train"
    register_datasets([entry])
    data = read_truth(entry)
    assert data.boxes[1].tolist() == [4, 4, 40, 10]
    assert data.annotated[1].tolist() == [4, 4, 50, 10]
    assert find_odd_objects(data)["outside"].tolist() == [False, True]


def test_odd_and_similar_images(truth, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) for _ in range(5)]
    pictures[3] = pictures[0]
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).resize((100, 100)).save(tmp_path / f"{i}.png")
    Image.fromarray(pictures[1]).resize((90, 100)).save(tmp_path / "1.png")
    (tmp_path / "4.png").write_bytes(b"no image")
    data = truth([(i, 0, [1, 1, 9, 9]) for i in (0, 1, 3, 4)], num_images=5)
    data.files = [str(tmp_path / f"{i}.png") for i in range(5)]
    odd = {key: np.flatnonzero(x).tolist() for key, x in find_odd_images(data).items()}
    assert odd == {"empty": [2], "unreadable": [4], "wrong size": [1]}
    similar = find_similar(data.files, np.array([0, 0, 0, 1, 1]))
    assert similar.group.tolist() == [0, -1, -1, 0, -1]
    assert similar.across.tolist() == [True, False, False, True, False]
    assert not find_similar(data.files, np.zeros(5, int)).across.any()


def test_data_sets_are_merged_by_the_names_of_their_classes(truth):
    first = truth([(0, 0, [0, 0, 1, 1]), (1, 1, [0, 0, 2, 2])], num_images=2)
    second = truth([(0, 0, [0, 0, 3, 3]), (0, 1, [0, 0, 4, 4])], classes=("b", "c"))
    merged, set_of = merge([first, second])
    assert merged.class_names == ["a", "b", "c"] and set_of.tolist() == [0, 0, 1]
    assert merged.classes.tolist() == [0, 1, 1, 2] and merged.image.tolist() == [0, 1, 2, 2]
    assert merged.boxes[:, 2].tolist() == [1, 2, 3, 4]


def test_suspicions(truth, found):
    boxes = [[x, 0, x + 10, 10] for x in range(0, 100, 20)]
    objects = [(0, 0, box) for box in boxes]
    data = truth(objects)
    detections = found(
        [
            (0, 0, boxes[0], 0.9),  # right
            (0, 0, boxes[1], 0.7),  # right: sure from 0.8 on
            (0, 0, boxes[2], 0.04),  # right, but hardly seen
            (0, 0, [64, 0, 74, 10], 0.95),  # inexact: IoU of 60 / 140
            (0, 0, [50, 50, 60, 60], 0.85),  # no label
            (0, 0, [70, 50, 80, 60], 0.79),  # not sure
        ]
    )
    errors = find_errors(data, detections, match(data, detections))
    doubts = find_suspicions(data, detections, errors)
    assert doubts.lowest.tolist() == pytest.approx([0.8, 1])
    assert detections.scores[doubts.inexact].tolist() == [0.95]
    assert detections.scores[doubts.no_label].tolist() == [0.85]
    assert not doubts.wrong_class.any()
    assert doubts.unseen.tolist() == [False, False, True, False, True]


def test_a_contradicted_class(truth, found):
    boxes = [[x, 0, x + 10, 10] for x in (0, 20, 40)]
    data = truth([(0, 1, boxes[0]), (0, 0, boxes[1]), (0, 0, boxes[2])])
    detections = found(
        [
            (0, 1, boxes[0], 0.6),
            (0, 1, boxes[1], 0.9),  # sure of b where the label is a
            (0, 1, boxes[2], 0.9),  # the same, but
            (0, 0, boxes[2], 0.8),  # it is sure of a, too
        ]
    )
    errors = find_errors(data, detections, match(data, detections))
    doubts = find_suspicions(data, detections, errors)
    on = detections.boxes[doubts.wrong_class]
    assert on.tolist() == [boxes[1]] and not doubts.unseen.any()


@pytest.mark.parametrize("most", [1, 29, 60, 95])
def test_the_histogram_of_objects_reaches_to_the_image_with_the_most(truth, tmp_path, most):
    data = truth([(0, 0, [1, 1, 9, 9])] * most, num_images=2)
    data.files = [str(tmp_path / f"{i}.png") for i in range(2)]
    sections = inspection_sections(Findings([data]))
    picture = next(y for x in sections if x.title == "Sizes" for y in x.pictures)
    bins = picture.data[picture.data["what"] == "objects"]
    filled = bins[bins["count"] > 0]
    assert filled["count"].tolist() == [1, 1]
    assert ((filled["from"] < [0, most]) & (filled["to"] > [0, most])).all()
    assert filled.index[-1] == bins.index[-1]  # no bin lies beyond it

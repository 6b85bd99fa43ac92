"""What is shown of a result."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

pytest.importorskip("gradio", reason="needs the extra 'web'")

from sparsercnn.inference.class_names import ClassNames
from sparsercnn.inference.detections import make_result
from sparsercnn.serve.view import (
    Choice,
    choose,
    describe,
    draw,
    entries,
    table,
    to_csv,
    to_json,
)

LABELS = ClassNames(["mug", "spoon"], ["floor", "wall", "sky"], {0: 7, 1: 9})


def make_detections(scores, size=(40, 60), masks=False):
    """Boxes of classes 0, 1, 0, ..., each 10 pixels further right than the last one."""
    number = len(scores)
    left = torch.arange(number) * 10.0
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.stack([left, left * 0 + 5, left + 10, left * 0 + 25], 1))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.arange(number) % 2
    if masks:
        instances.pred_masks = torch.zeros(number, *size, dtype=torch.bool)
        instances.pred_masks[:, 5:25, :10] = True
    image = np.full((*size, 3), 100, np.uint8)
    return make_result({"instances": instances}, LABELS, image, "a.png")


def make_segmentation(size=(40, 60)):
    """The left half is floor, the right half wall."""
    scores = torch.zeros(3, *size)
    scores[0, :, : size[1] // 2] = 1
    scores[1, :, size[1] // 2 :] = 1
    image = np.full((*size, 3), 100, np.uint8)
    return make_result({"sem_seg": scores}, LABELS, image, "a.png")


STAGES = [make_detections([0.3]), make_detections([0.9, 0.75, 0.5])]


@pytest.mark.parametrize(
    "choice,scores",
    [
        (Choice(0), [0.9, 0.75, 0.5]),
        (Choice(0.75), [0.9, 0.75]),
        (Choice(1), []),
        (Choice(0, stage=1), [0.3]),
        (Choice(0, stage=2), [0.9, 0.75, 0.5]),
        (Choice(0, stage=6), [0.9, 0.75, 0.5]),  # of another model beside it
        (Choice(0, classes=("mug",)), [0.9, 0.5]),
        (Choice(0.6, classes=("mug",)), [0.9]),
        (Choice(0, classes=("mug", "spoon")), [0.9, 0.75, 0.5]),
        (Choice(0, classes=("fork",)), []),
        (Choice(1, classes=("mug",)), []),
    ],
)
def test_detections_are_chosen(choice, scores):
    result = choose(STAGES, choice)
    assert result.scores.tolist() == pytest.approx(scores)
    assert [x["score"] for x in entries(result, choice)] == pytest.approx(scores)
    assert len(table(result, choice)[1]) == len(scores)
    assert describe(result, choice) == f"{len(scores)} detection" + "s" * (len(scores) != 1)
    drawn = draw(result, choice)
    assert (np.ptp(drawn) > 0) == bool(scores)


def test_the_table_is_for_readers():
    titles, rows = table(STAGES[1], Choice(0))
    assert titles == ["class", "score", "x", "y", "width", "height"]
    assert rows[:2] == [["mug", 0.9, 0, 5, 10, 20], ["spoon", 0.75, 10, 5, 10, 20]]


def test_json_and_csv_hold_the_same():
    found = entries(STAGES[1], Choice(0))
    assert json.loads(to_json(found)) == found == STAGES[1].to_dict()
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert rows[1] == {
        "image_id": "1",
        "file_name": "a.png",
        "category_id": "9",
        "category_name": "spoon",
        "score": "0.75",
        "x": "10.0",
        "y": "5.0",
        "width": "10.0",
        "height": "20.0",
    }
    assert [float(x["score"]) for x in rows] == [x["score"] for x in found]


def test_a_segmentation_is_filtered_by_class():
    result = choose([make_segmentation()], Choice(0.99))
    assert describe(result, Choice()) == "2 classes"
    titles, rows = table(result, Choice())
    assert titles == ["class", "pixels", "share"]
    assert rows == [["floor", 1200, "50.0%"], ["wall", 1200, "50.0%"]]
    only = Choice(classes=("wall",))
    assert table(result, only)[1] == rows[1:]
    assert [x["category_name"] for x in entries(result, only)] == ["wall"]
    assert to_csv(entries(result, only)).splitlines()[1] == "1,a.png,1,wall,,,,,"
    drawn, everything = draw(result, only), draw(result, Choice())
    middle = drawn.shape[1] // 2
    assert (drawn[:, :middle] == 100).all()
    assert (drawn[:, middle:] == everything[:, middle:]).all()
    assert (everything != 100).any(axis=2).mean() > 0.9


@pytest.mark.parametrize("masks", [False, True])
def test_a_large_image_is_drawn_smaller(masks):
    small = draw(make_detections([0.9], size=(40, 600), masks=masks), Choice())
    assert small.shape == (80, 1200, 3)  # enlarged for the captions, but not more than fits
    large = make_detections([0.9], size=(400, 3400), masks=masks)
    drawn = draw(large, Choice())
    assert drawn.shape == (134, 1134, 3)
    changed = np.argwhere((drawn != 100).any(axis=2))
    # The box from (0, 5) to (10, 25), a third as large, and its caption.
    assert changed[:, 0].min() >= 0 and changed[:, 1].max() < 150
    assert large.boxes.tolist() == [[0, 5, 10, 25]]


def test_a_large_segmentation_is_drawn_smaller():
    drawn = draw(make_segmentation((200, 3400)), Choice(classes=("wall",)))
    assert drawn.shape[1] >= 1134
    assert (drawn[:, : drawn.shape[1] // 2 - 4] == 100).all()
    assert (drawn[:, drawn.shape[1] // 2 + 4 :] != 100).any()

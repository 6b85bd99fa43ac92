"""Kinds of errors and their costs, on cases worked by hand."""

import numpy as np
import pytest

from sparsercnn.report.confusion import confusion_matrix
from sparsercnn.report.matching import match
from sparsercnn.report.tide import KINDS, costs, find_errors

BOX = [0, 0, 10, 10]
SHIFTED = [4, 0, 14, 10]  # IoU of 60 / 140 with BOX
FAR = [50, 50, 60, 60]


def judge(data, detections):
    matches = match(data, detections)
    errors = find_errors(data, detections, matches)
    return matches, errors, [KINDS[k] for k in errors.kind]


@pytest.mark.parametrize(
    ("label", "box", "kind", "missed"),
    [
        (0, BOX, "right", False),
        (1, BOX, "cls", False),
        (0, SHIFTED, "loc", False),
        (1, SHIFTED, "both", True),
        (0, FAR, "bkg", True),
        (0, [0, 0, 10, 0.9], "bkg", True),  # IoU of 0.09
        (0, [0, 0, 10, 1], "loc", False),  # exactly 0.1
    ],
)
def test_a_single_detection(truth, found, label, box, kind, missed):
    data = truth([(0, 0, BOX)])
    detections = found([(0, label, box, 0.9)])
    _, errors, kinds = judge(data, detections)
    assert kinds == [kind]
    assert errors.missed(data, errors.kind >= 0).tolist() == [missed]


def test_the_second_detection_of_an_object(truth, found):
    data = truth([(0, 0, BOX)])
    detections = found([(0, 0, BOX, 0.9), (0, 0, [0, 0, 10, 9], 0.8)])
    _, errors, kinds = judge(data, detections)
    assert kinds == ["right", "dup"]
    assert errors.iou.tolist() == [1, 0] and errors.object.tolist() == [0, -1]


def test_an_image_without_objects_has_background_alone(truth, found):
    data = truth([(1, 0, BOX)], num_images=2)
    assert judge(data, found([(0, 0, BOX, 0.9), (1, 0, BOX, 0.8)]))[2] == ["bkg", "right"]


def test_what_is_on_a_crowd_is_ignored(truth, found):
    data = truth([(0, 0, BOX)], crowd=[0])
    _, errors, kinds = judge(data, found([(0, 0, [1, 1, 5, 5], 0.9), (0, 1, [1, 1, 5, 5], 0.8)]))
    assert kinds == ["ignored", "bkg"]
    assert not errors.missed(data, errors.kind >= 0).any()


def test_costs_worked_by_hand(truth, found):
    # Four objects of one class, AP over 101 recalls. Best first: a find, one of the wrong class,
    # one on nothing, a find, an inexact one; one object is missed.
    boxes = [[x, 0, x + 10, 10] for x in (0, 20, 40, 60)]
    data = truth([(0, 0, box) for box in boxes], classes=("a", "b"))
    detections = found(
        [
            (0, 0, boxes[0], 0.9),
            (0, 1, boxes[1], 0.8),
            (0, 0, FAR, 0.7),
            (0, 0, boxes[3], 0.6),
            (0, 0, [44, 0, 54, 10], 0.5),
        ]
    )
    matches, errors, kinds = judge(data, detections)
    assert kinds == ["right", "cls", "bkg", "right", "loc"]
    # b has no object and does not count. a: finds at ranks 1 and 3 of 4, 26 and 25 recalls.
    ap = (26 + 25 * 2 / 3) / 101
    # With b's detection in a: ranks 1, 2, 4, and 75 of 100 recalls.
    cls = (26 + 25 + 25 * 3 / 4) / 101
    loc = (26 + 50 * 3 / 4) / 101  # the envelope: rank 3 has 2/3, rank 4 then 3/4
    bkg = (26 + 25) / 101
    result = costs(data, detections, matches, errors)
    assert result.pop("AP50") == pytest.approx(100 * ap)
    assert result == pytest.approx(
        {
            "cls": 100 * (cls - ap),
            "loc": 100 * (loc - ap),
            "both": 0,
            "dup": 0,
            "bkg": 100 * (bkg - ap),
            "miss": 0,  # the other two objects have a detection that would be right if corrected
        }
    )


def test_a_missed_object_costs_its_recall(truth, found):
    data = truth([(0, 0, BOX), (0, 0, FAR)])
    detections = found([(0, 0, BOX, 0.9)])
    matches, errors, _ = judge(data, detections)
    result = costs(data, detections, matches, errors)
    assert result["AP50"] == pytest.approx(100 * 51 / 101)
    assert result["miss"] == pytest.approx(100 * 50 / 101)


def test_only_the_best_error_of_an_object_is_corrected(truth, found):
    data = truth([(0, 0, BOX)])
    twice = found([(0, 0, SHIFTED, 0.9), (0, 0, [3.9, 0, 13.9, 10], 0.8)])
    matches, errors, kinds = judge(data, twice)
    assert kinds == ["loc", "loc"]
    assert costs(data, twice, matches, errors)["loc"] == pytest.approx(100)
    again = found([(0, 0, BOX, 0.5), (0, 0, SHIFTED, 0.9)])
    matches, errors, _ = judge(data, again)
    assert costs(data, again, matches, errors)["loc"] == pytest.approx(50)  # it vanishes


def test_the_confusion_matrix_by_hand(truth, found):
    boxes = [[x, 0, x + 10, 10] for x in (0, 20, 40, 60)]
    objects = [(0, 0, boxes[0]), (0, 0, boxes[1]), (0, 1, boxes[2]), (1, 1, boxes[3])]
    data = truth(objects, num_images=2)
    detections = found(
        [
            (0, 0, boxes[0], 0.6),  # right, though
            (0, 1, boxes[0], 0.9),  # a better one says b: on nothing, the object is taken
            (0, 1, boxes[1], 0.8),  # a taken for b
            (0, 0, boxes[1], 0.1),  # below the score
            (0, 0, [43, 0, 53, 10], 0.7),  # b taken for a: IoU of 70 / 130
            (1, 1, [65, 0, 75, 10], 0.7),  # IoU of a third: on nothing, and b is not found
        ]
    )
    _, errors, _ = judge(data, detections)
    matrix = confusion_matrix(data, detections, errors, detections.scores >= 0.5)
    assert matrix.tolist() == [[1, 1, 0], [1, 0, 1], [0, 2, 0]]


def test_confusion_counts_every_object_and_detection_once(truth, found):
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 60, (60, 2))
    boxes = np.concatenate([corners, corners + rng.integers(5, 40, (60, 2))], axis=1)
    data = truth(
        [(i // 10, int(rng.integers(2)), box) for i, box in enumerate(boxes[:30])], num_images=3
    )
    detections = found(
        [(i // 10, int(rng.integers(2)), b, rng.uniform()) for i, b in enumerate(boxes[30:])]
        + [(i // 10, int(rng.integers(2)), b + 1, rng.uniform()) for i, b in enumerate(boxes[:30])]
    )
    _, errors, _ = judge(data, detections)
    chosen = detections.scores > 0.3
    matrix = confusion_matrix(data, detections, errors, chosen)
    assert matrix[:-1].sum() == 30 and matrix[:, :-1].sum() == chosen.sum()
    assert matrix[0].sum() == (data.classes == 0).sum() and matrix[:2, :2].sum() > 5

"""Thresholds with the best F1, and calibration, worked by hand."""

import math

import numpy as np
import pytest

from sparsercnn.report.matching import match
from sparsercnn.report.scores import best_thresholds, calibration, expected_calibration_error

BOXES = [[x, 0, x + 10, 10] for x in (0, 20, 40)]


def thresholds(data, detections):
    return best_thresholds(data, detections, match(data, detections))


def test_the_best_f1(truth, found):
    data = truth([(0, 0, box) for box in BOXES])
    # right, wrong, right, wrong: F1 with 1, 2, 3, 4 of them is 2/4, 2/5, 4/6, 4/7.
    boxes = [BOXES[0], [60, 60, 70, 70], BOXES[1], [80, 80, 90, 90]]
    detections = found([(0, 0, box, s) for box, s in zip(boxes, (0.9, 0.8, 0.6, 0.4), strict=True)])
    best, none = thresholds(data, detections)
    assert best.score == pytest.approx(0.5)  # half way to the next one
    assert best.f1 == pytest.approx(4 / 6)
    assert (best.precision, best.recall) == pytest.approx((2 / 3, 2 / 3))
    assert none.score == 0.5 and math.isnan(none.f1)


def test_equal_scores_are_taken_together(truth, found):
    data = truth([(0, 0, BOXES[0])])
    detections = found([(0, 0, BOXES[0], 0.7), (0, 0, [60, 60, 70, 70], 0.7)])
    best = thresholds(data, detections)[0]
    assert best.precision == 0.5 and best.score == pytest.approx(0.35)


def test_calibration_by_hand():
    scores = np.array([0.05, 0.15, 0.95, 1.0, 0.55])
    right = np.array([False, True, True, True, False])
    table = calibration(scores, right)
    assert table["detections"].tolist() == [1, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    assert table["score"][9] == pytest.approx(0.975) and table["precision"][9] == 1
    assert np.isnan(table["precision"][2])
    expected = (0.05 + 0.85 + 0.55 + 2 * 0.025) / 5
    assert expected_calibration_error(table) == pytest.approx(expected)
    assert math.isnan(expected_calibration_error(calibration(scores[:0], right[:0])))


def test_a_calibrated_model_has_no_error():
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=200_000)
    table = calibration(scores, rng.uniform(size=len(scores)) < scores)
    assert expected_calibration_error(table) < 0.01

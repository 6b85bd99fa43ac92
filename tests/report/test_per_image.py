"""Errors of each image, and McNemar's test, worked by hand."""

import numpy as np
import pytest

from sparsercnn.report.matching import match
from sparsercnn.report.per_image import compare_objects, image_table
from sparsercnn.report.tide import find_errors

BOXES = [[x, 0, x + 10, 10] for x in (0, 20, 40)]


def test_the_errors_of_images(truth, found):
    data = truth([(0, 0, BOXES[0]), (0, 0, BOXES[1]), (1, 1, BOXES[2])], num_images=4)
    detections = found(
        [
            (0, 0, [0, 0, 10, 8], 0.9),  # IoU of 0.8
            (0, 0, [60, 60, 70, 70], 0.8),
            (0, 0, BOXES[1], 0.2),  # below the score
            (1, 0, BOXES[2], 0.9),
            (3, 1, BOXES[0], 0.4),  # above the score of its class
        ]
    )
    errors = find_errors(data, detections, match(data, detections))
    table = image_table(data, detections, errors, np.array([0.5, 0.3]))
    # Of the first image: a find of LRP 2 x 0.2, a wrong one, and an object not found.
    assert table["LRP"].tolist() == pytest.approx([(0.4 + 2) / 3, 1, 0, 1])
    assert table["objects"].tolist() == [2, 1, 0, 0]
    columns = {"right": [1, 0, 0, 0], "cls": [0, 1, 0, 0], "bkg": [1, 0, 0, 1]}
    columns |= {"miss": [1, 0, 0, 0], "dup": [0] * 4, "loc": [0] * 4, "both": [0] * 4}
    assert {name: table[name].tolist() for name in columns} == columns
    assert table["loss"].isna().all()


def test_mcnemar_by_hand(truth):
    data = truth([(0, n % 2, BOXES[0]) for n in range(12)], crowd=[0])
    first = np.array([0] + [1] * 2 + [0] * 6 + [1] * 3, bool)
    second = np.array([0] + [1] + [0] + [1] * 5 + [0] + [1] * 3, bool)
    table = compare_objects(data, first, second).set_index("class")
    columns = ["objects", "both", "only first", "only second", "neither"]
    assert table.loc["all", columns].tolist() == [11, 4, 1, 5, 1]
    assert table.loc["all", "p"] == pytest.approx(2 * (1 + 6) / 2**6)
    assert np.isnan(table.loc["all", "p corrected"])
    assert table.loc["a", "objects"] + table.loc["b", "objects"] == 11
    same = compare_objects(data, first, first)
    assert same["p"].isna().all() and same["p corrected"].isna().all()

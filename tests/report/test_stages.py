"""Movement and places of proposals, worked by hand."""

import numpy as np
import pytest

from sparsercnn.report.stages import StageHistory, ap_by_stage, movement, proposal_places


@pytest.fixture
def history():
    """Two images, two stages, two proposals: the first halves its width, then stays; the second
    moves away by 0.3 and 0.4, then stays."""
    whole, half = [0, 0, 1, 1], [0, 0, 0.5, 1]
    small, away = [0, 0, 0.1, 0.1], [0.3, 0.4, 0.4, 0.5]
    boxes = np.array([[[whole, small], [half, away], [half, away]]] * 2, np.float32)
    return StageHistory(
        boxes=boxes,
        classes=np.array([[[0, 1], [0, 0]], [[1, 1], [1, 1]]]),
        scores=np.array([[[0.5, 0.5], [0.9, 0.1]], [[0.5, 0.5], [0.2, 0.1]]], np.float32),
        positives=np.array([[3, 2], [3, 0]], np.float32),
        num_objects=np.array([1, 1]),
    )


def test_movement(history):
    table = movement(history)
    assert table["stage"].tolist() == [1, 2]
    assert table["IoU"].tolist() == pytest.approx([(0.5 + 0) / 2, 1])
    assert table["IoU of kept"].tolist() == pytest.approx([0.5, 1])
    shifts = (0.25 / 2**0.5, 0.5 / 2**0.5)
    assert table["shift"].tolist() == pytest.approx([sum(shifts) / 2, 0])
    assert table["shift of kept"].tolist() == pytest.approx([shifts[0], 0])
    assert np.isnan(table["change class"][0])
    assert table["change class"][1] == pytest.approx(1 / 4)
    assert table["change class of kept"][1] == 0
    assert table["positives"].tolist() == [3, 1]


def test_places(history):
    history.boxes[1, 2, 1] = [0.5, 0.4, 0.6, 0.5]
    table = proposal_places(history, ["cat", "dog"])
    assert table["uses"].tolist() == [2, 0]  # 0.9; and the best of the second image
    assert table.loc[1, ["x", "y", "width", "height"]].tolist() == pytest.approx(
        [0.45, 0.45, 0.1, 0.1]
    )
    assert table["spread"].tolist() == pytest.approx([0, 0.1], abs=1e-6)
    assert table.loc[0, ["first x", "first width"]].tolist() == [0.5, 1]
    assert table.loc[1, "share"] == 0.5 and set(table["class"]) <= {"cat", "dog"}


def test_ap_of_stages(truth, found):
    data = truth([(0, 0, [0, 0, 10, 10])])
    stages = [found([(0, 0, [0, 0, 10, y], 0.9)]) for y in (3, 6, 10)]
    table = ap_by_stage(data, stages)
    # IoU of 0.3, 0.6 and 1: three of ten thresholds are up to 0.6.
    assert table["AP"].tolist() == pytest.approx([0, 30, 100])
    assert table["AP50"].tolist() == pytest.approx([0, 100, 100])
    assert table["gain"][1:].tolist() == pytest.approx([30, 70]) and np.isnan(table["gain"][0])

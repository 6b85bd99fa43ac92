"""Captions do not cover each other; further detections of an object are numbered."""

import numpy as np
import pytest

from sparsercnn.inference.captions import _overlap, number_duplicates, place_captions


def test_duplicates_by_hand():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [50, 50, 60, 60], [0, 0, 10, 10]]
    classes, scores = [1, 1, 1, 1, 2], [0.5, 0.9, 0.4, 0.8, 0.3]
    # The second is the best of three; the fourth is elsewhere, the last another class.
    assert number_duplicates(boxes, classes, scores) == [2, 1, 3, 1, 1]
    assert number_duplicates([], [], []) == []
    # Equal scores: the first one is first.
    assert number_duplicates([[0, 0, 9, 9]] * 3, [0] * 3, [0.5] * 3) == [1, 2, 3]


@pytest.mark.parametrize("same", [False, True])
def test_captions_do_not_cover_each_other(same):
    rng = np.random.default_rng(0)
    corners = np.zeros((40, 2)) + 60 if same else rng.uniform(-5, 150, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (40, 2))], axis=1)
    sizes = np.column_stack([rng.uniform(10, 40, 40), np.full(40, 6)])
    places = place_captions(boxes, sizes, (200, 200))
    rectangles = np.concatenate([places, places + sizes], axis=1)
    covers = _overlap(rectangles, rectangles)
    assert covers.sum() == 40  # each only itself
    assert rectangles.min() >= 0 and rectangles.max() <= 200
    # The first one is where it belongs.
    np.testing.assert_allclose(places[0], np.clip(boxes[0, :2], 0, None))


def test_where_there_is_no_room():
    places = place_captions([[0, 0, 10, 10]] * 3, [[30, 30]] * 3, (10, 10))
    assert places.shape == (3, 2) and (places == 0).all()
    assert place_captions(np.zeros((0, 4)), np.zeros((0, 2)), (10, 10)).shape == (0, 2)

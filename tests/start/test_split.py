"""Divisions are stratified, seeded, and keep groups together."""

import numpy as np
import pytest

from sparsercnn.errors import DataError
from sparsercnn.start.split import divide, stratify


def random_classes(n=200, seed=0):
    """Classes that 60, 30, 10 and 5 of 100 images have."""
    rng = np.random.default_rng(seed)
    return rng.random((n, 4)) < [0.6, 0.3, 0.1, 0.05]


def test_each_class_has_its_share_on_both_sides():
    has_class = random_classes()
    division = stratify(has_class, np.arange(200), 0.2, seed=0)
    assert sorted(division.train + division.val) == list(range(200))
    assert len(division.val) == pytest.approx(40, abs=2)
    share = has_class[division.val].sum(axis=0) / has_class.sum(axis=0)
    # Nearer than a random division: of the rarest, some 10 images, the nearest whole number.
    assert np.abs(share - 0.2).max() < 0.1


def test_the_seed_decides():
    has_class = random_classes()
    first, again, other = (stratify(has_class, np.arange(200), 0.2, seed) for seed in (1, 1, 2))
    assert first == again and first.val != other.val


def test_groups_stay_together():
    has_class = random_classes()
    groups = np.arange(200) // 5 * 7  # any numbers
    division = stratify(has_class, groups, 0.25, seed=0)
    assert not set(groups[division.train]) & set(groups[division.val])
    assert len(division.val) == pytest.approx(50, abs=5)


def test_by_hand():
    # One image of class 1 of ten: it belongs to train. Class 0 is on five: one of them to val.
    has_class = np.zeros((10, 2), bool)
    has_class[3, 1] = True
    has_class[5:, 0] = True
    for seed in range(5):
        division = stratify(has_class, np.arange(10), 0.2, seed)
        assert 3 in division.train
        assert sorted(i >= 5 for i in division.val) == [False, True]


@pytest.mark.parametrize("n", [2, 3])
def test_no_side_is_empty(n):
    division = stratify(np.ones((n, 1), bool), np.arange(n), 0.01, seed=0)
    assert len(division.val) == 1 and len(division.train) == n - 1


def test_what_cannot_be_divided_is_an_error():
    for groups in ([], [4, 4, 4]):
        with pytest.raises(DataError, match="cannot be divided"):
            stratify(np.ones((len(groups), 1), bool), np.array(groups, int), 0.2, seed=0)


def test_the_parts_are_complete_files():
    content = {
        "images": [{"id": f"i{n}"} for n in range(4)],
        "categories": [{"id": 9, "name": "cat"}],
        "annotations": [{"id": n, "image_id": f"i{n % 4}", "category_id": 9} for n in range(8)],
    }
    train, val = divide(content, np.array([0, 1, 1, 2]), 0.25, seed=0)
    for part in (train, val):
        ids = {image["id"] for image in part["images"]}
        assert part["categories"] == content["categories"]
        assert {x["image_id"] for x in part["annotations"]} == ids
        assert len(part["annotations"]) == 2 * len(ids)
    assert len(train["images"]) + len(val["images"]) == 4
    assert ({"i1", "i2"} & {x["id"] for x in val["images"]}) in (set(), {"i1", "i2"})

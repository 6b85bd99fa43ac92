"""Results as arrays, pictures and json."""

import json

import numpy as np
import pytest
import torch

from sparsercnn.inference.class_names import ClassNames
from sparsercnn.inference.detections import Detections, Segmentation, make_result

NAMES = ClassNames(["pin", "cog"], ["sky", "road"], {0: 7, 1: 9})


@pytest.fixture
def found(detections):
    return make_result(detections, NAMES, np.full((40, 60, 3), 90, np.uint8))


def test_arrays_are_parallel(found):
    assert isinstance(found, Detections) and len(found) == 2
    assert found.boxes.tolist() == [[5, 10, 25, 30], [0, 0, 60, 40]]
    assert found.scores.tolist() == [0.75, 0.5] and found.classes.tolist() == [1, 5]
    assert found.names == ["cog", "class 5"] and found.masks is None
    first, second = found
    assert (first.box.tolist(), first.score, first.class_index) == ([5, 10, 25, 30], 0.75, 1)
    assert second.name == "class 5" and found[-1].score == 0.5
    assert repr(found) == "Detections(2: 1 x cog, 1 x class 5)"
    with pytest.raises(IndexError):
        found[2]


def test_parts_are_chosen_as_in_an_array(found):
    assert found.above(0.6).names == ["cog"] == found[:1].names
    assert found[[1]].names == ["class 5"] == found[found.classes == 5].names
    assert found[[1, 0]].scores.tolist() == [0.5, 0.75] == found[::-1].scores.tolist()
    assert len(found[np.array([False, False])]) == 0 == len(found.above(1))
    assert repr(found.above(1)) == "Detections(0)" and found.above(1).to_dict() == []
    assert len(found) == 2  # itself unchanged


def test_what_was_found_is_found_again(detections, found):
    assert found[1] in found and found.index(found[1]) == 1 and found.count(found[0]) == 1
    assert found[0] == found[0] != found[1] and found[0] != tuple(found[0])
    without_masks = found[:]
    detections["instances"].pred_masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    with_masks = make_result(detections, NAMES)
    assert with_masks[1] in with_masks and with_masks[1] not in without_masks


def test_the_json_is_the_demos(found):
    results = json.loads(json.dumps(found.to_dict(image_id=4)))
    assert results[0] == {
        "image_id": 4,
        "file_name": None,
        "category_id": 9,
        "category_name": "cog",
        "bbox": [5, 10, 20, 20],
        "score": 0.75,
    }


def test_masks_follow_their_boxes(detections):
    detections["instances"].pred_masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    detections["instances"].pred_masks[1, 3] = True
    found = make_result(detections, NAMES)
    assert found.masks.shape == (2, 40, 60) and found[1].mask.sum() == 60
    assert found[1:].masks.sum() == 60 and not found[:1].masks.any()
    assert len(found.to_dict()[1]["segmentation"]["counts"]) > 0


def test_a_picture_is_drawn_in_its_size_or_larger(found):
    picture = found.plot()
    assert picture.shape == (160, 240, 3) and picture.dtype == np.uint8
    assert found.plot(scale=1).shape == (40, 60, 3)
    assert (found.above(1).plot() == 90).all() and not (picture == 90).all()


def test_the_picture_of_a_file_is_read_when_it_is_drawn(detections, write_picture, picture):
    path = write_picture("a.png", size=(40, 60))
    found = make_result(detections, NAMES, file_name=path)
    np.testing.assert_array_equal(found.image, picture(size=(40, 60)))
    assert found.above(0.6).plot(scale=1).shape == (40, 60, 3)
    assert found.to_dict()[0]["file_name"] == path


def test_a_segmentation_has_the_same_manners():
    label_map = torch.zeros(40, 60, dtype=torch.int64)
    label_map[:, 30:] = 2
    scores = torch.nn.functional.one_hot(label_map, 4).permute(2, 0, 1).float()
    image = np.full((40, 60, 3), 90, np.uint8)
    found = make_result({"sem_seg": scores}, NAMES, image)
    assert isinstance(found, Segmentation) and len(found) == 2
    np.testing.assert_array_equal(found.labels, label_map)
    assert found.classes.tolist() == [0, 2] and found.names == ["sky", "class 2"]
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.masks[1], label_map == 2)
    sky, other = found
    assert sky.name == "sky" and other.class_index == 2 and other.mask.sum() == 40 * 30
    assert [x.name for x in found[1:]] == ["class 2"] and found[-1].name == "class 2"
    assert found[found.classes == 2] == found[1:] == found[[1]] and found[::-1] == [other, sky]
    assert other in found and found.index(other) == 1 and sky != other
    assert [x["category_id"] for x in found.to_dict()] == [0, 2]
    assert found.plot(scale=1).shape == (40, 60, 3) and (found.plot() != 90).any()
    assert found.above(0.9).names == found.names
    assert repr(found) == "Segmentation(2: sky, class 2)"

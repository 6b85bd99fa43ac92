"""The picture of small objects, and which of them are found."""

import torch
from detectron2.structures import Boxes, Instances

from sparsercnn.benchmark.slices import draw_field, match_objects


def test_objects_of_the_picture_are_where_their_boxes_are():
    image, boxes, classes = draw_field(600, 400, seed=0)
    assert image.shape == (400, 600, 3) and len(boxes) == len(classes) > 6
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= torch.tensor([600, 400])).all()
    contrast = torch.tensor(image).float().std(dim=2)  # grey but for the objects
    for x0, y0, x1, y1 in boxes.round().long().tolist():
        assert contrast[y0:y1, x0:x1].mean() > 2 * contrast.median()


def test_each_object_is_found_by_its_best_detection_alone():
    found = Instances((50, 50))
    found.pred_boxes = Boxes(
        torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
    )
    found.pred_classes = torch.tensor([0, 0, 1, 2])
    boxes = torch.tensor([[20.0, 20, 30, 30], [0, 0, 10, 10], [40, 40, 50, 50]])
    # The second is of an object that has been found, the third of another class.
    assert match_objects(found, boxes, torch.tensor([0, 0, 2])) == {0: 1, 3: 2}

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import BitMasks, PolygonMasks

from sparsercnn.errors import DataError
from sparsercnn.modeling.masks import ObjectMasks, crop_masks, cropping

SIZE = (90, 120)


@pytest.fixture
def ellipses(make_instances):
    """An image of three ellipses as polygons, and the same as bitmaps."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    polygons = []
    for x, y, a, b in ((30, 40, 22, 30), (80, 30, 35, 12), (100, 70, 8, 15)):
        corners = np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], axis=1)
        polygons.append([corners.reshape(-1)])
    boxes = PolygonMasks(polygons).get_bounding_boxes().tensor.tolist()
    drawn, decoded = make_instances(SIZE, boxes, [0, 1, 2]), make_instances(SIZE, boxes, [0, 1, 2])
    drawn.gt_masks = PolygonMasks(polygons)
    runs = [mask_util.frPyObjects(polygon, *SIZE)[0] for polygon in polygons]
    decoded.gt_masks = BitMasks(torch.from_numpy(mask_util.decode(runs)).permute(2, 0, 1).bool())
    return drawn, decoded


def rois_around(boxes, number):
    """(number * G, 4), boxes moved and scaled by up to a third, and their objects."""
    index = torch.arange(len(boxes)).repeat(number)
    size = (boxes[:, 2:] - boxes[:, :2])[index]
    rois = boxes[index] + (torch.rand(len(index), 4) - 0.5) * 0.6 * size.repeat(1, 2)
    return rois, index


def test_targets_are_those_of_detectron2(ellipses):
    """Which draws polygons into each RoI, and samples bitmaps of whole images."""
    for instances in ellipses:
        masks = ObjectMasks.from_instances([instances], "cpu")
        rois, index = rois_around(instances.gt_boxes.tensor, 20)
        found = masks.crop(rois, torch.zeros_like(index), index, 28)
        expected = instances.gt_masks[index].crop_and_resize(rois, 28)
        assert found.unique().tolist() == [0, 1]
        assert (found == expected).float().mean() > 0.985
        together = (found * expected).sum() / torch.maximum(found, expected.float()).sum()
        assert together > 0.975


def test_a_square_by_hand(make_instances):
    """Over (10, 20, 50, 60); a RoI shifted by half of it to the left, and others."""
    instances = make_instances((100, 100), [[10.0, 20, 50, 60]], [0])
    instances.gt_masks = PolygonMasks([[[10, 20, 50, 20, 50, 60, 10, 60]]])
    masks = ObjectMasks.from_instances([instances], "cpu")
    rois = torch.tensor(
        [
            [10.0, 20, 50, 60],
            [-10, 20, 30, 60],
            [0, 10, 80, 90],  # an eighth before it, half covered
            [60, 20, 99, 60],
            [-1e9, -1e9, 1e9, 1e9],
            [20, 30, 20, 30],  # inside, without area
            [float("nan"), 0, 9, 9],
            [float("-inf"), 0, float("inf"), 9],
        ]
    )
    zeros = torch.zeros(len(rois), dtype=torch.int64)
    found = masks.crop(rois, zeros, zeros, 8)
    assert found[0].all() and found[5].all()
    assert not found[1, :, :4].any() and found[1, :, 4:].all()
    assert found[2, 1:5, 1:5].all() and found[2].sum() == 16
    assert not found[3:5].any() and not found[6:].any()


def test_objects_are_found_by_image(ellipses, make_instances):
    empty = make_instances((30, 30))
    masks = ObjectMasks.from_instances([empty, ellipses[0], empty, ellipses[1]], "cpu")
    assert masks.starts.tolist() == [0, 0, 3, 3] and len(masks.rasters) == len(masks.boxes) == 7
    boxes = ellipses[0].gt_boxes.tensor
    images, objects = torch.tensor([1, 3, 3]), torch.tensor([2, 0, 1])
    found = masks.crop(boxes[objects], images, objects, 14)
    for i, (image, row) in enumerate(zip(images, objects, strict=True)):
        alone = ObjectMasks.from_instances([ellipses[0 if image == 1 else 1]], "cpu")
        zero = torch.zeros(1, dtype=torch.int64)
        expected = alone.crop(boxes[row][None], zero, row[None], 14)
        assert torch.equal(found[i], expected[0])


def test_a_batch_without_objects_has_an_empty_mask(make_instances):
    masks = ObjectMasks.from_instances([make_instances((30, 30))] * 2, "cpu")
    images = torch.tensor([0, 1])
    found = masks.crop(torch.tensor([[0.0, 0, 9, 9]] * 2), images, torch.zeros_like(images), 4)
    assert found.shape == (2, 4, 4) and not found.any()


def test_a_batch_of_16_is_cropped_in_one_call(ellipses, monkeypatch):
    calls = []
    kernel = cropping.roi_align
    monkeypatch.setattr(
        cropping, "roi_align", lambda *args, **kwargs: calls.append(1) or kernel(*args, **kwargs)
    )
    masks = ObjectMasks.from_instances([ellipses[i % 2] for i in range(16)], "cpu")
    images = torch.arange(16).repeat_interleave(3)
    objects = torch.arange(3).repeat(16)
    found = masks.crop(ellipses[0].gt_boxes.tensor[objects], images, objects, 28)
    assert found.shape == (48, 28, 28) and calls == [1]


def test_a_thin_object_keeps_its_mask(make_instances):
    """A line of no width has a box of a pixel around it."""
    instances = make_instances((50, 50), [[10.0, 20, 40, 20]], [0])
    instances.gt_masks = PolygonMasks([[[10, 20, 40, 20, 40, 20]]])
    masks = ObjectMasks.from_instances([instances], "cpu")
    width, height = (masks.boxes[0, 2:] - masks.boxes[0, :2]).tolist()
    assert width == pytest.approx(30 * 112 / 110) and height == pytest.approx(112 / 110)


def test_masks_are_resampled_to_other_boxes():
    """A ramp over [0, 8] from box to box; half of the second RoI is outside."""
    ramp = torch.arange(8.0).expand(1, 8, 8) + 0.5
    boxes = torch.tensor([[0.0, 0, 8, 8]])
    rois = torch.tensor([[2.0, 2, 6, 6], [4, 0, 12, 8]])
    inner, outer = crop_masks(ramp, boxes, rois, torch.zeros(2, dtype=torch.int64), 4)
    torch.testing.assert_close(inner[0], torch.tensor([2.5, 3.5, 4.5, 5.5]))
    torch.testing.assert_close(outer[0, :2], torch.tensor([5.0, 7.0]), rtol=0.1, atol=0)
    assert outer[0, 3] == 0


def test_objects_without_masks_are_named(make_instances):
    instances = make_instances(SIZE, [[10.0, 20, 40, 30]], [0])
    with pytest.raises(DataError, match=r"MODEL.MASK_ON is True, but the objects .*\(gt_masks\)"):
        ObjectMasks.from_instances([instances], "cpu")

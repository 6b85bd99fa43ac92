import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from sparsercnn.modeling import PyramidRoIAlign
from sparsercnn.modeling.pooler import _Maps

STRIDES = [4, 8, 16, 32]


@pytest.fixture
def pyramid():
    return [torch.randn(2, 5, 512 // stride, 640 // stride) for stride in STRIDES]


@pytest.fixture
def boxes():
    """Of all levels' sizes, some reaching out of the image, one without an area."""
    centre = torch.rand(2, 40, 2) * 700 - 30
    size = 2 ** (torch.rand(2, 40, 2) * 8 + 2)
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=2)
    boxes[0, 0] = torch.tensor([50.0, 50, 50, 50])
    return boxes


def _assert_close(pooled, expected):
    # A sample at pixel 160 is known to 1e-5 of a pixel in float32, wherever a compiler rounds.
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sampling_ratio", [2, 3, 0])
@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIAlign"])
def test_equals_detectron2(pyramid, boxes, pooler_type, sampling_ratio):
    reference = ROIPooler(7, [1 / s for s in STRIDES], sampling_ratio, pooler_type)
    aligned = pooler_type == "ROIAlignV2"
    ours = PyramidRoIAlign(
        output_size=7, strides=STRIDES, sampling_ratio=sampling_ratio, aligned=aligned
    )(pyramid, boxes)
    _assert_close(ours, reference(pyramid, [Boxes(b) for b in boxes]))


def test_tokens_are_contiguous(pyramid, boxes):
    pooled = PyramidRoIAlign(output_size=3, strides=STRIDES)(pyramid, boxes)
    assert pooled.flatten(2).transpose(1, 2).is_contiguous()


def test_table_and_maps_give_the_same(pyramid, boxes, monkeypatch):
    """The way of the CPU, and the way of other devices."""
    pooler = PyramidRoIAlign(output_size=3, strides=STRIDES)
    pyramid = [level.requires_grad_() for level in pyramid]
    from_table = pooler(pyramid, boxes)
    from_table.square().sum().backward()
    gradients = [level.grad.clone() for level in pyramid]
    for level in pyramid:
        level.grad = None
    monkeypatch.setattr(pooler, "prepare", lambda levels: _Maps(levels, torch.float32))
    from_maps = pooler(pyramid, boxes)
    from_maps.square().sum().backward()
    _assert_close(from_table, from_maps)
    for level, gradient in zip(pyramid, gradients, strict=True):
        _assert_close(level.grad, gradient)


def test_boxes_are_not_rounded_to_the_features_type(pyramid, boxes):
    pooler = PyramidRoIAlign(output_size=7, strides=STRIDES)
    exact = pooler([level.bfloat16().float() for level in pyramid], boxes)
    pooled = pooler([level.bfloat16() for level in pyramid], boxes)
    assert pooled.dtype == torch.bfloat16
    # One rounding of the result, not of a box: in bfloat16, 601 and 603 pixels are the same.
    torch.testing.assert_close(pooled.float(), exact, rtol=2**-8, atol=1e-6)


def test_non_finite_boxes_read_zeros(pyramid, boxes):
    pooler = PyramidRoIAlign(output_size=7, strides=STRIDES)
    expected = pooler(pyramid, boxes)
    boxes[1, 3] = float("nan")
    pooled = pooler(pyramid, boxes)
    assert pooled[40 + 3].eq(0).all()
    others = torch.arange(80) != 43
    torch.testing.assert_close(pooled[others], expected[others])


def test_a_box_with_one_negative_side_reads_zeros(pyramid, boxes, monkeypatch):
    """Nothing keeps the sides of learned proposals positive. On both ways, see above."""
    pooler = PyramidRoIAlign(output_size=7, strides=STRIDES)
    expected = pooler(pyramid, boxes)
    boxes[1, 3, [0, 2]] = boxes[1, 3, [2, 0]]
    others = torch.arange(80) != 43
    for _ in range(2):
        pooled = pooler(pyramid, boxes)
        assert pooled[43].eq(0).all()
        _assert_close(pooled[others], expected[others])
        monkeypatch.setattr(pooler, "prepare", lambda levels: _Maps(levels, torch.float32))


@pytest.mark.parametrize("strides", [[4, 8, 32], [4, 12]])
def test_refuses_strides_that_do_not_double(strides):
    with pytest.raises(ValueError, match="Strides of the pyramid"):
        PyramidRoIAlign(output_size=7, strides=strides)

import pytest
import torch
from torchvision.ops import roi_align

from sparsercnn.modeling.roi_bags import pool_pyramid, roi_align_bags

STRIDES = [4, 8]


@pytest.fixture
def pyramid():
    return [torch.randn(2, 5, 24 // i, 32 // i, requires_grad=True) for i in (1, 2)]


@pytest.fixture
def rois():
    """In and across the image, without an area, far outside, and larger than the image."""
    centre = torch.rand(40, 2) * torch.tensor([160.0, 120.0]) - 15
    size = 2 ** (torch.rand(40, 2) * 7)
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    boxes[0] = torch.tensor([50.0, 50, 50, 50])
    boxes[1] = torch.tensor([-900.0, -900, -800, -800])
    boxes[2] = torch.tensor([-200.0, -200, 400, 400])
    return torch.cat([torch.arange(40)[:, None] % 2, boxes], dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_equals_the_kernel_forwards_and_backwards(pyramid, rois, aligned, sampling_ratio):
    level = torch.arange(40) // 2 % 2
    options = {"sampling_ratio": sampling_ratio, "aligned": aligned}
    pooled = pool_pyramid(pyramid, rois, level, output_size=3, strides=STRIDES, **options)
    kernel = [
        roi_align(x, rois, 3, 1 / s, **options) for x, s in zip(pyramid, STRIDES, strict=True)
    ]
    expected = torch.where(level[:, None, None, None] == 0, *kernel)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(pooled)
    gradients = [torch.autograd.grad((x * weights).sum(), pyramid) for x in (pooled, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_weights_of_a_bin_inside_add_up_to_one():
    rois = torch.tensor([[0.0, 10.0, 12.0, 50.0, 70.0], [0, float("nan"), 0, 1, 1]])
    options = {"output_size": 2, "strides": [4], "sampling_ratio": 2, "aligned": True}
    index, weight = roi_align_bags(rois, torch.tensor([0, 0]), 1, [(24, 32)], **options)
    assert index.shape == weight.shape == (8, 16)
    assert index.min() >= 0 and index.max() < 24 * 32
    torch.testing.assert_close(weight.sum(1), torch.tensor([1.0] * 4 + [0.0] * 4))


def test_tokens_are_a_view(pyramid, rois):
    level = torch.zeros(40, dtype=torch.int64)
    options = {"output_size": 3, "strides": STRIDES, "sampling_ratio": 2, "aligned": True}
    pooled = pool_pyramid(pyramid, rois, level, **options)
    tokens = pooled.flatten(2).transpose(1, 2)
    assert tokens.is_contiguous() and tokens.data_ptr() == pooled.data_ptr()

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionNorm

from sparsercnn.analysis import calm_frozen_norms


def test_frozen_norms_of_each_library_halve_and_others_are_left_alone():
    class DetrFrozenBatchNorm2d(FrozenBatchNorm2d):  # named as in transformers
        pass

    x = torch.randn(1, 2, 3, 3)
    for norm in (FrozenBatchNorm2d(2), TorchvisionNorm(2), DetrFrozenBatchNorm2d(2)):
        expected = 0.5 * norm(x)
        model = nn.Sequential(norm)
        assert calm_frozen_norms(model) is model
        torch.testing.assert_close(model(x), expected)
    norm = nn.BatchNorm2d(2)
    calm_frozen_norms(nn.Sequential(norm))
    assert norm.weight.eq(1).all()

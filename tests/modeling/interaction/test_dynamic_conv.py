import torch
from torch import nn

from sparsercnn.modeling import (
    DynamicConv,
)


def test_dynamic_conv_worked_by_hand():
    """One channel, one token: relu(norm) of a single value is its bias."""
    module = DynamicConv(hidden_dim=2, dim_dynamic=1, pooler_resolution=1)
    for norm in (module.norm1, module.norm2, module.norm3):
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
    with torch.no_grad():
        module.norm1.bias.fill_(3.0)  # LayerNorm over one channel leaves the bias alone
        module.dynamic_layer.weight.zero_()
        # matrix1 = [[7], [7]] has no say then; matrix2 = [[1, -1]] gives (3, -3).
        module.dynamic_layer.bias.copy_(torch.tensor([7.0, 7.0, 1.0, -1.0]))
        module.out_layer.weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        module.out_layer.bias.zero_()
    out = module(torch.randn(1, 2), torch.randn(1, 2, 1, 1))
    # LayerNorm(3, -3) = (1, -1), relu (1, 0), out layer (0, 2), LayerNorm (-1, 1), relu (0, 1).
    torch.testing.assert_close(out, torch.tensor([[0.0, 1.0]]), rtol=0, atol=1e-4)


def test_each_proposal_filters_its_own_roi():
    module = DynamicConv(hidden_dim=8, dim_dynamic=4, pooler_resolution=3)
    proposals, rois = torch.randn(5, 8), torch.randn(5, 8, 3, 3)
    together = module(proposals, rois)
    for i in range(5):
        alone = module(proposals[i : i + 1], rois[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)

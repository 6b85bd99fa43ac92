import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import nn

from sparsercnn.modeling.activation_checkpoint import checkpoint_activations


@pytest.mark.parametrize("backbone,head", [(True, False), (False, True), (True, True)])
def test_same_losses_and_gradients_with_less_kept(tiny_cfg, make_input, backbone, head):
    tiny_cfg.MODEL.SparseRCNN.NUM_PROPOSALS = 100  # so that the head has something to keep
    model = build_model(tiny_cfg)
    other = copy.deepcopy(model)
    checkpoint_activations(other, backbone=backbone, head=head)
    assert list(other.state_dict()) == list(model.state_dict())
    inputs = [make_input((64, 96), [[5, 5, 40, 40]], [1])]
    kept = [_backward(m, inputs) for m in (model, other)]
    assert kept[1] < 0.8 * kept[0]
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)


def _backward(model, inputs):
    """Bytes of activations that the forward pass keeps for the backward pass."""
    weights = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = sum(model(inputs).values())
    loss.backward()
    return sum(kept.values())


def test_blocks_may_overwrite_the_list_of_maps_that_they_are_given():
    class Block(BasicBlock):  # as those of HRNet
        def forward(self, maps):
            maps[0] = super().forward(maps[0])
            return maps

    model = nn.Module()
    model.backbone = Block(4, 4)
    other = copy.deepcopy(model)
    checkpoint_activations(other, backbone=True)
    x = torch.randn(2, 4, 6, 6)
    for m in (model, other):
        m.backbone([x.clone().requires_grad_()])[0].square().sum().backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)


def test_refuses_a_model_with_nothing_to_checkpoint():
    model = nn.Module()
    model.backbone = nn.Identity()
    with pytest.raises(ValueError, match="ACTIVATION_CHECKPOINT.BACKBONE"):
        checkpoint_activations(model, backbone=True)


def test_batch_norms_count_a_batch_once():
    block = BasicBlock(4, 8, norm="BN")
    model = nn.Module()
    model.backbone = nn.Sequential(block)
    other = copy.deepcopy(model)
    checkpoint_activations(other, backbone=True)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    for m in (model, other):
        m.backbone(x).square().sum().backward()
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(dict(other.named_buffers())[name], buffer)
    assert other.backbone[0].conv1.norm.num_batches_tracked == 1
    assert other.backbone[0].conv1.norm.momentum == 0.1
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)

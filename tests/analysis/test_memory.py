import gc
import weakref

import torch
from torch import nn

from sparsercnn.analysis import StepMemory, bytes_kept_for_backward, measure_step


class Losses(nn.Module):
    """Two linear layers with a ReLU between; its loss is a sum."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, inputs):
        x = self.first(inputs[0]["image"]).relu()
        return {"loss": self.second(x).sum()}


def test_what_linear_layers_keep():
    """The input of each layer; the ReLU's output is the second's input and counts once."""
    model, x = Losses(), torch.rand(10, 4)
    kept = bytes_kept_for_backward(lambda: model([{"image": x}]), without=model.parameters())
    assert kept == 4 * (10 * 4 + 10 * 8)


def test_weights_are_no_activations():
    model, x = Losses(), torch.rand(10, 4)
    kept = bytes_kept_for_backward(lambda: model([{"image": x}]))
    assert kept == 4 * (10 * 4 + 10 * 8) + 4 * 2 * 8  # the input needs no gradient of the first


def test_a_view_keeps_all_that_it_views():
    x = torch.rand(100, 4, requires_grad=True)
    assert bytes_kept_for_backward(lambda: (x[:1] * x[:1]).sum()) == 1600


def test_without_gradients_nothing_is_kept():
    model, x = Losses(), torch.rand(10, 4)
    with torch.no_grad():
        assert bytes_kept_for_backward(lambda: model([{"image": x}])) == 0


def test_nothing_stays_behind():
    """An operator that keeps its own output must not be kept by it."""
    x, passengers = torch.rand(4, requires_grad=True), weakref.WeakSet()

    def run():
        y = x.sigmoid()
        passenger = nn.Identity()  # it lives as long as the operator in the graph
        y.grad_fn.metadata["passenger"] = passenger
        passengers.add(passenger)
        return y.sum()

    assert bytes_kept_for_backward(run) == 16
    gc.collect()
    assert not passengers


def test_a_step_worked_by_hand():
    model = Losses()
    model.first.requires_grad_(False)
    model.register_buffer("extra", torch.zeros(5))
    inputs = [{"image": torch.rand(10, 4)}]
    optimizer = torch.optim.AdamW(model.second.parameters())
    step = measure_step(model, inputs, optimizer)
    weights, trained = 4 * (5 * 8 + 9 * 2 + 5), 4 * 9 * 2
    assert step == StepMemory(weights, 2 * trained, trained, kept=4 * 10 * 8)
    assert step.needed == weights + 2 * trained + 320
    sgd = torch.optim.SGD(model.second.parameters(), 0.1, momentum=0.9)
    assert measure_step(model, inputs, sgd).moments == trained


def test_gradients_count_where_they_are_more_than_the_activations():
    assert StepMemory(weights=1, moments=2, gradients=40, kept=30).needed == 43

import copy

import pytest
import torch
import torch._inductor.config
from detectron2.modeling import build_model
from torch import nn

from sparsercnn.errors import ConfigError
from sparsercnn.modeling.activation_checkpoint import checkpoint_activations
from sparsercnn.modeling.compilation import _CompiledInTraining, compile_for_training


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def in_dynamo_alone(monkeypatch):
    """What is traced runs in PyTorch's own kernels: a test of seconds instead of minutes."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **k: compiler(f, **k, backend=backend))
    return compiled


@pytest.mark.parametrize("recompute", [False, True])
def test_same_losses_gradients_and_names(tiny_cfg, make_input, in_dynamo_alone, recompute):
    model = build_model(tiny_cfg)
    compiled = copy.deepcopy(model)
    compile_for_training(compiled, blockwise=recompute)
    checkpoint_activations(compiled, backbone=recompute, head=recompute)
    in_dynamo_alone.clear()  # of the trial
    assert list(compiled.state_dict()) == list(model.state_dict())
    inputs = [make_input((64, 96), [[5, 5, 40, 40]], [1]), make_input((64, 64))]
    losses = [m(inputs) for m in (model, compiled)]
    for name in losses[0]:
        torch.testing.assert_close(losses[1][name], losses[0][name])
    for each in losses:
        sum(each.values()).backward()
    for p, q in zip(model.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5)
    for p, q in zip(model.buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(q, p)
    assert in_dynamo_alone


class _Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = 2.0

    def forward(self, x):
        return x * self.factor


def test_evaluation_is_not_compiled(in_dynamo_alone):
    module = _Doubling().eval()
    module.forward = _CompiledInTraining(module)
    assert module(torch.ones(3)).tolist() == [2, 2, 2] and in_dynamo_alone == []
    module.train()
    assert module(torch.ones(3)).tolist() == [2, 2, 2] and len(in_dynamo_alone) == 1
    assert module(torch.ones(5)).tolist() == [2] * 5 and len(in_dynamo_alone) == 1


def test_a_copy_does_not_run_the_code_of_the_original(in_dynamo_alone):
    module = _Doubling()
    module.forward = _CompiledInTraining(module)
    module(torch.ones(3))
    other = copy.deepcopy(module)
    other.factor = 3.0
    assert other(torch.ones(3)).tolist() == [3, 3, 3]
    assert module(torch.ones(3)).tolist() == [2, 2, 2]


def test_backbones_that_the_compiler_fails_on_are_refused(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_vit_backbone"
    tiny_cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(tiny_cfg)
    with pytest.raises(ConfigError, match="SOLVER.COMPILE is True, but .* plain ViTs"):
        compile_for_training(model)


def test_without_a_compiler_the_key_is_named(tiny_cfg):
    missing = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with (
        torch._inductor.config.patch(missing),
        pytest.raises(ValueError, match=r"COMPILE is True.*Install a C\+\+ compiler.*False"),
    ):
        compile_for_training(build_model(tiny_cfg))


def test_compiled_to_machine_code():
    """Of a small part, since a whole model takes a minute."""
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    expected = layer(torch.ones(2, 3))
    layer.forward = _CompiledInTraining(layer)
    torch.testing.assert_close(layer(torch.ones(2, 3)), expected)
    assert layer.forward.compiled is not None

"""Position and channel attention against the explicit matrices, and what they allocate."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sparsercnn.modeling.segmentation.danet_attention as danet_attention
from sparsercnn.modeling.segmentation.danet_attention import (
    attend_channels,
    attend_positions,
    build_danet_attention,
)

KINDS = pytest.mark.parametrize("kind", ["parameter_free", "projected"])
KERNELS = pytest.mark.parametrize("fused", [True, False], ids=["fused", "rows"])


@pytest.fixture
def set_kernel(monkeypatch):
    def set_fused(fused):
        if not fused:
            monkeypatch.setattr(danet_attention, "_is_fused", lambda *_: False)
            monkeypatch.setattr(danet_attention, "_QUERY_CHUNK", 7)

    return set_fused


def explicit_position(query, key, value):
    return (query @ key.transpose(1, 2)).softmax(-1) @ value


def gradients(function, *inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out * weights).sum().backward()
    return [out.detach(), *(x.grad for x in leaves)]


@KERNELS
@pytest.mark.parametrize("widths", [(16, 16), (8, 64), (3, 5), (12, 4)])
def test_position_attention_is_softmax_of_products_times_values(set_kernel, fused, widths):
    set_kernel(fused)
    query, key = torch.randn(2, 2, 30, widths[0])
    value = torch.randn(2, 30, widths[1])
    actual = gradients(attend_positions, query, key, value)
    expected = gradients(explicit_position, query, key, value)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(attend_positions(query, key, value), actual[0])


def test_the_fused_kernel_is_there_for_all_widths():
    """Else the test of memory below would look at the rows alone."""
    for widths in ((16, 16), (8, 64), (64, 512), (512, 512), (3, 5)):
        query, value = torch.randn(1, 9, widths[0]), torch.randn(1, 9, widths[1])
        assert danet_attention._is_fused(*danet_attention._fit_kernels(query, query, value))


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def largest(function, *inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    with LargestTensor() as seen:
        function(*leaves).sum().backward()
    return seen.elements


@KERNELS
@pytest.mark.parametrize("widths", [(16, 16), (2, 16)])
def test_no_tensor_grows_with_the_square_of_the_positions(set_kernel, fused, widths):
    set_kernel(fused)
    sizes = []
    for positions in (400, 1600):
        query, key = torch.randn(2, 1, positions, widths[0])
        value = torch.randn(1, positions, widths[1])
        assert largest(explicit_position, query, key, value) == positions**2
        sizes.append(largest(attend_positions, query, key, value))
        assert sizes[-1] < positions**2 / 20
    assert sizes[1] == 4 * sizes[0]


@pytest.mark.parametrize("inverted", [False, True])
def test_channel_attention(inverted):
    def explicit(x):
        energy = x @ x.transpose(1, 2)
        if inverted:
            energy = energy.amax(-1, keepdim=True) - energy
        return energy.softmax(-1) @ x

    feature = torch.randn(2, 6, 20) / 4
    actual = gradients(lambda x: attend_channels(x, inverted), feature)
    for x, y in zip(actual, gradients(explicit, feature), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_one_position_and_one_channel_attend_to_themselves():
    feature = torch.randn(2, 5, 1, 1)
    position, _ = build_danet_attention("parameter_free", 5)
    torch.testing.assert_close(position(feature), 2 * feature)
    feature = torch.randn(2, 1, 3, 4)
    _, channel = build_danet_attention("parameter_free", 1)
    torch.testing.assert_close(channel(feature), 2 * feature)


@KINDS
def test_moving_positions_moves_the_result(kind):
    """Attention knows no places and no order of channels, projections aside."""
    x = torch.randn(2, 8, 3, 4)
    order = torch.randperm(12)

    def moved(x):
        return x.flatten(2)[..., order].view_as(x)

    for module in build_danet_attention(kind, 8):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        torch.testing.assert_close(module(moved(x)), moved(module(x)), rtol=1e-4, atol=1e-4)


def test_projected_attention_starts_as_the_identity_and_learns():
    x = torch.randn(2, 16, 5, 6)
    for module in build_danet_attention("projected", 16):
        assert torch.equal(module(x), x)
        (module(x) * torch.randn(x.shape)).sum().backward()
        assert module.gamma.grad.abs() > 0
        torch.nn.init.ones_(module.gamma)
        module.zero_grad()
        (module(x) * torch.randn(x.shape)).sum().backward()
        for name, parameter in module.named_parameters():
            if name != "key.bias":  # a softmax does not see what is added to all keys alike
                assert parameter.grad.abs().sum() > 0, name


def test_projected_position_attention_by_hand():
    module, _ = build_danet_attention("projected", 8)
    torch.nn.init.constant_(module.gamma, 0.7)
    x = torch.randn(1, 8, 2, 3)
    query, key, value = (
        torch.einsum("oc,bcl->bol", layer.weight[..., 0, 0], x.flatten(2)) + layer.bias[:, None]
        for layer in (module.query, module.key, module.value)
    )
    assert query.shape == (1, 1, 6)
    weights = torch.einsum("bci,bcj->bij", query, key).softmax(-1)
    expected = x + 0.7 * torch.einsum("bij,bcj->bci", weights, value).view_as(x)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


@KERNELS
@pytest.mark.parametrize("size", [100, 3000])
def test_products_beyond_half_precision_do_not_overflow(set_kernel, fused, size):
    set_kernel(fused)
    feature = size * torch.rand(1, 30, 16)  # products of at least about 50,000
    halved = feature.half()
    for function in (
        lambda x: attend_positions(x, x, x),
        lambda x: attend_channels(x, False),
        lambda x: attend_channels(x, True),
    ):
        expected = function(halved.float())
        out = function(halved)
        assert out.dtype == torch.float16
        torch.testing.assert_close(out.float(), expected, rtol=1e-3, atol=1e-3 * size)
        expected = function(feature.bfloat16().float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = function(feature.bfloat16())
        torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=5e-3 * size)


@KINDS
def test_autocast_keeps_the_type(kind):
    x = (30 * torch.rand(1, 16, 24, 24)).bfloat16()
    for module in build_danet_attention(kind, 16):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = module(x)
        assert out.dtype == torch.bfloat16 and out.isfinite().all()
        out.float().sum().backward() if kind == "projected" else None
        assert all(p.grad.isfinite().all() for p in module.parameters())


def test_unknown_attention_names_those_there_are():
    with pytest.raises(ValueError, match="parameter_free, projected"):
        build_danet_attention("dual", 8)


def test_too_few_channels_name_the_key():
    with pytest.raises(ValueError, match=r"CONVS_DIM must be at least 8"):
        build_danet_attention("projected", 4)

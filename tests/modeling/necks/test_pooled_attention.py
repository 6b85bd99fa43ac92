import math

import pytest
import torch
import torch.nn.functional as F

from sparsercnn.modeling.necks.pooled_attention import (
    AttentionBlock,
    GridPooling,
    PooledAttention,
    WindowPooling,
)

C = 8


def test_window_pooling_worked_by_hand():
    x = torch.arange(10.0).view(1, 1, 2, 5)  # 0 1 2 3 4 / 5 6 7 8 9
    # Two windows of 2, the last column in none; then every position.
    expected = torch.tensor([3.0, 5.0, *range(10)])
    assert torch.equal(WindowPooling((2, 1))(x)[0, :, 0], expected)


def test_window_larger_than_the_map_is_cut():
    x = torch.randn(2, C, 3, 10)
    tokens = WindowPooling((4,))(x)
    torch.testing.assert_close(tokens[:, 0], x[..., :4].mean((2, 3)))
    assert tokens.shape == (2, 2, C)  # one row of windows, three columns high
    whole = WindowPooling((16, 8))(x[..., :5])
    assert whole.shape == (2, 2, C)  # one token for each window
    torch.testing.assert_close(whole[:, 0], x[..., :5].mean((2, 3)))


def test_grid_pooling_by_hand():
    x = torch.arange(14.0 * 7).view(1, 1, 14, 7)
    tokens = GridPooling()(x)[0, :, 0].view(7, 7)
    torch.testing.assert_close(tokens, (x[0, 0, ::2] + x[0, 0, 1::2]) / 2)
    one = GridPooling()(x[..., :1, :1])
    assert one.shape == (1, 49, 1) and (one == x[0, 0, 0, 0]).all()


def explicit_attention(module, x, tokens):
    """softmax(Q K^T / sqrt(d)) V, head by head, over tokens that were pooled."""
    d = C // module.num_heads
    tokens = F.layer_norm(tokens, (C,), module.norm.weight, module.norm.bias)
    query = x @ module.q.weight.T
    key = tokens @ module.kv.weight[:C].T
    value = tokens @ module.kv.weight[C:].T
    heads = []
    for h in range(module.num_heads):
        part = slice(h * d, (h + 1) * d)
        scores = query[..., part] @ key[..., part].mT / math.sqrt(d)
        heads.append(scores.softmax(-1) @ value[..., part])
    return torch.cat(heads, dim=-1) @ module.proj.weight.T + module.proj.bias


def test_attention_is_softmax_of_scaled_products(randomize):
    pooling = WindowPooling((4, 2))
    module = randomize(PooledAttention(C, 4, pooling))
    x, source = torch.randn(2, 15, C), torch.randn(2, C, 9, 6)
    expected = explicit_attention(module, x, pooling(source))
    torch.testing.assert_close(module(x, source), expected)


def test_attention_forgets_the_order_of_tokens_and_keeps_that_of_queries(randomize):
    module = randomize(PooledAttention(C, 4, WindowPooling((1,))))
    x, source = torch.randn(2, 15, C), torch.randn(2, C, 4, 5)
    shuffled = source.flatten(2)[:, :, torch.randperm(20)].view(source.shape)
    torch.testing.assert_close(module(x, shuffled), module(x, source))
    order = torch.randperm(15)
    torch.testing.assert_close(module(x[:, order], source), module(x, source)[:, order])


def test_attention_of_blind_queries_is_the_mean_of_the_values(randomize):
    module = randomize(PooledAttention(C, 4, WindowPooling((1,))))
    torch.nn.init.zeros_(module.q.weight)
    x, source = torch.randn(1, 3, C), torch.randn(1, C, 4, 5)
    tokens = module.norm(source.flatten(2).mT)
    mean = module.proj((tokens @ module.kv.weight[C:].T).mean(1))
    torch.testing.assert_close(module(x, source), mean[:, None].expand(-1, 3, -1))


def explicit_block(block, x, source):
    """The definition, with x resized beforehand: y = x + Attn(LN x, LN source), y + MLP(LN y)."""
    H, W = source.shape[2:]
    x = F.interpolate(x, size=(H, W), mode="nearest").flatten(2).mT
    norm_source = block.norm_source or block.norm_query
    normed_source = norm_source(source.flatten(2).mT).mT.unflatten(2, (H, W))
    tokens = block.attention.pooling(normed_source)
    y = x + explicit_attention(block.attention, block.norm_query(x), tokens)
    hidden = block.mlp.linear1(block.norm_mlp(y)).mT.unflatten(2, (H, W))
    kernel, bias = block.mlp.depthwise.weight[:, 0], block.mlp.depthwise.bias
    shifted = F.pad(hidden, (1, 1, 1, 1))
    mixed = sum(
        kernel[:, i, j, None, None] * shifted[:, :, i : i + H, j : j + W]
        for i in range(3)
        for j in range(3)
    )
    mixed = F.gelu(mixed + bias[:, None, None])
    return (y + block.mlp.linear2(mixed.flatten(2).mT)).mT.unflatten(2, (H, W))


def test_block_against_its_definition(randomize):
    block = randomize(AttentionBlock(C, WindowPooling((4, 2))))
    x = torch.randn(2, C, 6, 9)
    torch.testing.assert_close(block(x), explicit_block(block, x, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(6, 10), (5, 9), (3, 5)], ids=["double", "odd", "same"])
def test_cross_block_resizes_before_anything_else_for_all_that_can_be_seen(randomize, size):
    block = randomize(AttentionBlock(C, GridPooling(), cross=True))
    x, source = torch.randn(2, C, 3, 5), torch.randn(2, C, *size)
    expected = explicit_block(block, x, source)
    torch.testing.assert_close(block(x, source), expected, rtol=1e-4, atol=1e-4)


def test_block_whose_last_layers_are_zero_is_a_resize():
    block = AttentionBlock(C, WindowPooling((2,)), cross=True)
    for layer in (block.attention.proj, block.mlp.linear2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(1, C, 3, 4)
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(block(x, torch.randn(1, C, 6, 8)), doubled)


def test_a_block_that_asks_itself_has_one_norm_less():
    def count(block):
        return sum(p.numel() for p in block.parameters())

    norm, matrices = 2 * C, 8 * C * C
    biases = C + 2 * C + C + 2 * C * (9 + 1)  # proj, linear1, linear2, depthwise with its weights
    assert count(AttentionBlock(C, GridPooling())) == 3 * norm + matrices + biases
    assert count(AttentionBlock(C, GridPooling(), cross=True)) == 4 * norm + matrices + biases

import math

import pytest
import torch

from sparsercnn.modeling.interaction.encoder import EncoderLayer, sine_position_code

C = 16  # of the layers below


def test_position_code_worked_by_hand():
    """Two rows, one column, four channels: y at pi and 2 pi, x at 2 pi, a wave of length 2 pi."""
    code = sine_position_code(2, 1, 4)
    expected = torch.tensor([[0.0, -1, 0, 1], [0, 1, 0, 1]])
    torch.testing.assert_close(code, expected, rtol=0, atol=1e-6)


def test_position_code_of_a_known_token():
    """DETR's formula, spelled out for the token in row 3 and column 2 of 7 x 5."""
    code = sine_position_code(7, 5, 256).view(7, 5, 256)[2, 1]
    for axis, angle in ((0, 3 / 7 * 2 * math.pi), (1, 2 / 5 * 2 * math.pi)):
        for i in (0, 1, 17, 63):
            t = 10000 ** (2 * i / 128)
            sine, cosine = code[128 * axis + 2 * i :][:2].tolist()
            assert sine == pytest.approx(math.sin(angle / t), abs=1e-5)
            assert cosine == pytest.approx(math.cos(angle / t), abs=1e-5)


def test_position_code_needs_four_channels():
    with pytest.raises(ValueError, match="HIDDEN_DIM.*multiple of 4, got 6"):
        sine_position_code(2, 2, 6)


def test_values_carry_no_position():
    """One token attends to itself alone, so that nothing but its value is left of it."""
    layer = EncoderLayer(C, 4, 24).eval()
    tokens = torch.randn(5, 1, C)
    torch.testing.assert_close(layer(tokens, torch.randn(5, 1, C)), layer(tokens, torch.zeros(1)))


def test_encoder_layer_agrees_with_an_explicit_softmax():
    layer = EncoderLayer(8, 2, 12).eval()
    tokens, position = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    weight, bias = layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias
    projected = [
        (x @ weight[i * 8 : i * 8 + 8].T + bias[i * 8 : i * 8 + 8]).view(3, 5, 2, 4).transpose(1, 2)
        for i, x in enumerate([tokens + position, tokens + position, tokens])
    ]
    q, k, v = projected
    attended = (q @ k.transpose(2, 3) / math.sqrt(4)).softmax(-1) @ v
    attended = layer.self_attn.out_proj(attended.transpose(1, 2).flatten(2))
    x = layer.norm1(tokens + attended)
    linear1, linear2 = layer.feed_forward.linear1, layer.feed_forward.linear2
    x = layer.norm2(x + linear2(linear1(x).clamp(min=0)))
    torch.testing.assert_close(layer(tokens, position), x, rtol=1e-4, atol=1e-5)

"""Attention over the tokens of a map: position codes and encoder layers.

Dimension letters: R sequences, L tokens of a sequence, C channels.
"""

import math

import torch
from torch import nn

from ...errors import ConfigError
from ..layers import get_activation

__all__ = ["EncoderLayer", "FeedForward", "sine_position_code"]


def sine_position_code(height, width, channels, temperature=10000.0):
    """Two-dimensional sine code (DETR, appendix A.4), half of the channels for each axis.

    The n positions of an axis are 2 pi i / n for i = 1..n; the far edge has the same code in maps
    of any size. Channel 2i of an axis is sin(position / t) and channel 2i + 1 the cosine, with
    t = temperature ** (2i / (channels / 2)).

    Args:
        height, width (int): size of the map.
        channels (int): C, a multiple of 4; the first C / 2 encode y, the others x.
        temperature (float): upper bound of the ratio between two wavelengths.

    Returns:
        Tensor: (height * width, C), in row-major order, on torch's default device.

    Raises:
        ConfigError: `channels` is not a multiple of 4.
    """
    if channels % 4:
        raise ConfigError(
            "The sine position code needs a sine and a cosine for each of two axes: channels "
            f"(MODEL.SparseRCNN.HIDDEN_DIM) must be a multiple of 4, got {channels}."
        )
    waves = temperature ** (torch.arange(0, channels // 2, 2) / (channels // 2))

    def code_axis(size):
        position = torch.arange(1, size + 1) / size * (2 * math.pi)
        angle = position[:, None] / waves
        return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)

    y = code_axis(height)[:, None].expand(-1, width, -1)
    x = code_axis(width)[None].expand(height, -1, -1)
    return torch.cat([y, x], dim=2).flatten(0, 1)


class FeedForward(nn.Module):
    """Linear, activation, dropout, Linear, without residual and norm."""

    def __init__(self, hidden_dim, dim_feedforward, dropout=0.0, activation="relu"):
        """
        Args:
            hidden_dim (int): C.
            dim_feedforward (int): width between the two layers.
            dropout (float): probability, after the activation.
            activation (str): relu or gelu.

        Raises:
            ConfigError: unknown activation.
        """
        super().__init__()
        self.activation = get_activation(activation)
        self.linear1 = nn.Linear(hidden_dim, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, hidden_dim)

    def forward(self, x):
        """(..., C) to (..., C)."""
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class EncoderLayer(nn.Module):
    """Post-norm transformer encoder layer with position codes on queries and keys (DETR, A.3).

    In :class:`torch.nn.TransformerEncoderLayer`, values would get the position codes too.
    """

    def __init__(self, hidden_dim, num_heads, dim_feedforward, dropout=0.0, activation="relu"):
        """
        Args:
            hidden_dim (int): C.
            num_heads (int): attention heads; a divisor of C.
            dim_feedforward (int): hidden width of the feed-forward network.
            dropout (float): probability, in attention and after each sub-layer.
            activation (str): relu or gelu, in the feed-forward network.
        """
        super().__init__()
        self.self_attn = nn.MultiheadAttention(
            hidden_dim, num_heads, dropout=dropout, batch_first=True
        )
        self.feed_forward = FeedForward(hidden_dim, dim_feedforward, dropout, activation)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, tokens, position):
        """
        Args:
            tokens: (R, L, C).
            position: broadcastable to (R, L, C), added to queries and keys, not to values.

        Returns:
            Tensor: (R, L, C).
        """
        placed = tokens + position
        # need_weights=False selects scaled_dot_product_attention: no (R, heads, L, L) is stored.
        attended = self.self_attn(placed, placed, tokens, need_weights=False)[0]
        tokens = self.norm1(tokens + self.dropout1(attended))
        return self.norm2(tokens + self.dropout2(self.feed_forward(tokens)))

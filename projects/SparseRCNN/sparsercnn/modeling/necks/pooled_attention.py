"""Attention of all positions of a map to a few pooled tokens.

The block of "Attention-based Feature Aggregation" (CVPR 2022 submission 9754,
github.com/XiongweiWu/MSCA-SA), used by :mod:`~sparsercnn.modeling.necks.attention_fpn`.

Dimension letters: B images, C channels, H and W the sides of a map, L = H * W positions, T tokens
that a map is pooled to.
"""

import torch
import torch.nn.functional as F
from detectron2.layers import CNNBlockBase
from torch import nn

from ...errors import ConfigError

__all__ = ["GRID", "AttentionBlock", "GridPooling", "PooledAttention", "WindowPooling", "upsample"]

GRID = 7  # cells per axis of GridPooling


class WindowPooling(nn.Module):
    """Average pooling with square, non-overlapping windows of several sizes, concatenated.

    As in the original, a remainder at the right and bottom of a map that is smaller than a window
    is ignored. The smaller windows of :class:`AttentionFPN` leave no remainder if the image is
    padded to a multiple of 32. A window larger than the map is reduced to the map's size.
    """

    def __init__(self, windows):
        """`windows` (list[int]): sides of the windows."""
        super().__init__()
        self.windows = tuple(windows)

    def forward(self, x):
        """
        Args:
            x: (B, C, H, W).

        Returns:
            Tensor: (B, T, C), T = the sum of max(H // w, 1) * max(W // w, 1) over the windows, in
            the order of `windows`, each in row-major order.
        """
        H, W = x.shape[2:]
        pooled = [F.avg_pool2d(x, (min(window, H), min(window, W))) for window in self.windows]
        return torch.cat([_tokens(means) for means in pooled], dim=1)


class GridPooling(nn.Module):
    """Average pooling to a grid of 7 x 7 cells, for maps of any size.

    Cells overlap if the sides are not multiples of the grid, and repeat on a map smaller than it;
    see :func:`torch.nn.functional.adaptive_avg_pool2d`.
    """

    def forward(self, x):
        """(B, C, H, W) to (B, T, C), T = 49, in row-major order."""
        return _tokens(F.adaptive_avg_pool2d(x, GRID))


class PooledAttention(nn.Module):
    """Multi-head attention from all positions of one map to the pooled tokens of another."""

    def __init__(self, channels, num_heads, pooling):
        """
        Args:
            channels (int): C.
            num_heads (int): attention heads; a divisor of C.
            pooling (nn.Module): (B, C, H, W) to (B, T, C).

        Raises:
            ConfigError: C is not a multiple of `num_heads`.
        """
        super().__init__()
        if channels % num_heads:
            raise ConfigError(
                f"MODEL.FPN.OUT_CHANNELS must be a multiple of {num_heads}, the number of "
                f"attention heads, got {channels}."
            )
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(channels, 2 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.pooling = pooling
        self.norm = nn.LayerNorm(channels)

    def forward(self, x, source):
        """
        Args:
            x: (B, L, C), input of the queries.
            source: (B, C, H, W), input of keys and values.

        Returns:
            Tensor: (B, L, C).
        """
        query = self._split_heads(self.q(x))
        keys_and_values = self.kv(self.norm(self.pooling(source)))
        key, value = (self._split_heads(half) for half in keys_and_values.chunk(2, dim=2))
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))

    def _split_heads(self, x):
        """(B, L, C) to (B, heads, L, C / heads)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class DepthwiseMLP(nn.Module):
    """Linear, depthwise 3x3 convolution, GELU, Linear."""

    def __init__(self, channels, hidden_channels):
        """
        Args:
            channels (int): C, channels of input and output.
            hidden_channels (int): channels between the two Linear layers.
        """
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden_channels)
        self.depthwise = nn.Conv2d(
            hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels
        )
        self.linear2 = nn.Linear(hidden_channels, channels)

    def forward(self, x, size):
        """
        Args:
            x: (B, h, w, C).
            size (tuple[int, int]): (H, W); the hidden map is resized to it before the convolution.

        Returns:
            Tensor: (B, H, W, C).
        """
        hidden = upsample(_channels_first(self.linear1(x)), size)
        return self.linear2(_channels_last(F.gelu(self.depthwise(hidden))))


class AttentionBlock(CNNBlockBase):
    """y = x + Attn(LN(x), LN(source)), then y + MLP(LN(y)).

    A CNNBlockBase like the blocks of a ResNet, so that MODEL.ACTIVATION_CHECKPOINT.BACKBONE
    applies to it too.
    """

    def __init__(self, channels, pooling, *, cross=False, num_heads=4, mlp_ratio=2):
        """
        Args:
            channels (int): C.
            pooling (nn.Module): (B, C, H, W) to (B, T, C).
            cross (bool): True: the source is a second map with its own LayerNorm. False: it is x.
            num_heads (int): attention heads.
            mlp_ratio (int): hidden channels of the MLP, in multiples of C.
        """
        super().__init__(channels, channels, 1)
        self.norm_query = nn.LayerNorm(channels)
        self.norm_source = nn.LayerNorm(channels) if cross else None
        self.attention = PooledAttention(channels, num_heads, pooling)
        self.norm_mlp = nn.LayerNorm(channels)
        self.mlp = DepthwiseMLP(channels, mlp_ratio * channels)

    def forward(self, x, source=None):
        """
        If the source has another size, x is upsampled to it by nearest neighbour. LayerNorms,
        queries and attention are the same for all copies of a position, so upsampling is postponed
        to the depthwise convolution, the only layer that mixes neighbours.

        Args:
            x: (B, C, h, w).
            source: (B, C, H, W) for a cross block, otherwise None.

        Returns:
            Tensor: (B, C, H, W), or (B, C, h, w) without a source.
        """
        size = (x if source is None else source).shape[2:]
        x = _channels_last(x)
        query = self.norm_query(x)
        if source is None:
            asked = _channels_first(query)
        else:
            asked = _channels_first(self.norm_source(_channels_last(source)))
        y = x + self.attention(query.flatten(1, 2), asked).view(x.shape)
        y_at_size = upsample(_channels_first(y), size)
        return y_at_size + _channels_first(self.mlp(self.norm_mlp(y), size))


def upsample(x, size):
    """Nearest-neighbour interpolation of x (B, C, h, w) to (B, C, *size); x itself if no change."""
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="nearest")


def _channels_last(x):
    """(B, C, H, W) to (B, H, W, C), a view."""
    return x.permute(0, 2, 3, 1)


def _channels_first(x):
    """(B, H, W, C) to (B, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)


def _tokens(x):
    """(B, C, H, W) to (B, H * W, C), in row-major order."""
    return x.flatten(2).transpose(1, 2)

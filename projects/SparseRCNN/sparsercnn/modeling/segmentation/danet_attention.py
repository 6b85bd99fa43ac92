"""Position and channel attention (DANet, CVPR 2019, section 3), for segmentation and detection.

Dimension letters: B images, C channels, L = H * W positions of a map.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend
from torch.utils.checkpoint import checkpoint

from ...errors import ConfigError
from ...registry import NamedRegistry

__all__ = [
    "DANET_ATTENTION_REGISTRY",
    "ChannelAttention",
    "PositionAttention",
    "ProjectedChannelAttention",
    "ProjectedPositionAttention",
    "attend_channels",
    "attend_positions",
    "build_danet_attention",
]

DANET_ATTENTION_REGISTRY = NamedRegistry("DANET_ATTENTION")
"""Name -> function that takes the number of channels C and returns the modules of position and
channel attention, each mapping (B, C, H, W) to the same shape."""

_HEAD_DIM_STEP = 8  # in any precision, fused kernels accept head widths that are multiples of it
_QUERY_CHUNK = 256  # positions whose scores are in memory at a time without a fused kernel


def build_danet_attention(name, channels):
    """tuple[nn.Module, nn.Module]: position and channel attention for C `channels`, of the kind
    that `name` has in DANET_ATTENTION_REGISTRY."""
    return DANET_ATTENTION_REGISTRY.get(name)(channels)


def attend_positions(query, key, value):
    """softmax(Q K^T) V over positions, without storing the L x L matrix.

    As in the paper (equation 1), scores are not divided by the root of the width. Memory is linear
    in L on every device, forward and backward: where no fused kernel of
    :func:`~torch.nn.functional.scaled_dot_product_attention` applies, scores are computed a few
    rows at a time, and recomputed in the backward pass.

    Args:
        query, key: (B, L, D).
        value: (B, L, C).

    Returns:
        Tensor: (B, L, C).
    """
    C = value.shape[-1]
    query, key, value = _fit_kernels(query, key, value)
    if _is_fused(query, key, value):
        heads = [x[:, None] for x in (query, key, value)]
        return F.scaled_dot_product_attention(*heads, scale=1.0)[:, 0, :, :C]
    chunks = query.split(_QUERY_CHUNK, dim=1)
    if torch.is_grad_enabled():
        rows = [checkpoint(_attend_rows, x, key, value, use_reentrant=False) for x in chunks]
    else:
        rows = [_attend_rows(x, key, value) for x in chunks]
    return torch.cat(rows, dim=1)[..., :C]


def _fit_kernels(query, key, value):
    """Pad channels with zeros, which change no product, to widths that fused kernels accept.

    On the CPU the kernel needs one width for all three.
    """
    widths = [math.ceil(x.shape[-1] / _HEAD_DIM_STEP) * _HEAD_DIM_STEP for x in (query, value)]
    if query.device.type == "cpu":
        widths = [max(widths)] * 2
    sizes = (widths[0], widths[0], widths[1])
    tensors = (query, key, value)
    return [
        F.pad(x, (0, size - x.shape[-1])).contiguous()
        for x, size in zip(tensors, sizes, strict=True)
    ]


def _is_fused(query, key, value):
    # scaled_dot_product_attention uses the same function; there is no public way to know its
    # choice before it allocates the scores.
    if query.device.type not in ("cpu", "cuda"):
        return False
    choice = torch._fused_sdp_choice(query[:, None], key[:, None], value[:, None])
    return choice != SDPBackend.MATH.value


def _attend_rows(query, key, value):
    # In half precision, sums of many unscaled products overflow.
    with torch.autocast(query.device.type, enabled=False):
        scores = torch.bmm(query.float(), key.float().transpose(1, 2))
        return torch.bmm(scores.softmax(dim=-1), value.float()).to(value.dtype)


def attend_channels(feature, inverted):
    """softmax(X X^T) X over channels (equation 3 of the paper), with the map X as (C, L).

    Args:
        feature: (B, C, L).
        inverted (bool): use softmax(max - X X^T), with the maximum of each row: channels attend
            to those least similar to them. The paper's code does this, its equation does not.

    Returns:
        Tensor: (B, C, L).
    """
    # In half precision, sums over all positions overflow.
    with torch.autocast(feature.device.type, enabled=False):
        energy = torch.bmm(feature.float(), feature.float().transpose(1, 2))
        # The maximum needs no subtraction: softmax is invariant to it.
        weights = (-energy if inverted else energy).softmax(dim=-1)
        return torch.bmm(weights, feature.float()).to(feature.dtype)


class PositionAttention(nn.Module):
    """x + attention over positions, whose queries, keys and values are x itself."""

    def forward(self, x):
        """(B, C, H, W) to (B, C, H, W)."""
        tokens = x.flatten(2).transpose(1, 2)
        attended = attend_positions(tokens, tokens, tokens)
        return x + attended.transpose(1, 2).reshape(x.shape)


class ChannelAttention(nn.Module):
    """x + attention over channels, whose queries, keys and values are x itself."""

    def forward(self, x):
        """(B, C, H, W) to (B, C, H, W)."""
        return x + attend_channels(x.flatten(2), inverted=False).view_as(x)


class ProjectedPositionAttention(nn.Module):
    """x + gamma * attention over positions of projections of x (section 3.2, equations 1, 2)."""

    def __init__(self, channels):
        """
        Args:
            channels (int): C, at least 8; queries and keys have C // 8.

        Raises:
            ConfigError: C is below 8.
        """
        super().__init__()
        if channels < 8:
            raise ConfigError(
                "Projected position attention has an eighth of its channels in the queries; "
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM must be at least 8, got {channels}."
            )
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))  # alpha in equation 2

    def forward(self, x):
        """(B, C, H, W) to (B, C, H, W), x itself as long as gamma is 0."""
        tokens = [layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key)]
        value = self.value(x).flatten(2).transpose(1, 2)
        attended = attend_positions(*tokens, value)
        return x + self.gamma * attended.transpose(1, 2).reshape(x.shape)


class ProjectedChannelAttention(nn.Module):
    """x + gamma * inverted attention over channels (section 3.3, equations 3, 4)."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))  # beta in equation 4

    def forward(self, x):
        """(B, C, H, W) to (B, C, H, W), x itself as long as gamma is 0."""
        return x + self.gamma * attend_channels(x.flatten(2), inverted=True).view_as(x)


@DANET_ATTENTION_REGISTRY.register("parameter_free")
def _parameter_free(channels):
    return PositionAttention(), ChannelAttention()


@DANET_ATTENTION_REGISTRY.register("projected")
def _projected(channels):
    return ProjectedPositionAttention(channels), ProjectedChannelAttention()

"""RoI transformer and dynamic CBAM (Dual-Attention Sparse R-CNN, IEEE 9954801).

Dimension letters: R RoIs, C channels, r the side of a RoI feature, L = r * r tokens of a RoI.
"""

import torch
from detectron2.config import configurable
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...errors import ConfigError
from ..layers import xavier_matrices
from .build import INTERACTION_REGISTRY
from .encoder import EncoderLayer, FeedForward, sine_position_code

__all__ = ["CBAM", "DualAttention", "DynamicGate", "StaticChannelGate", "StaticPositionGate"]


class DynamicGate(nn.Module):
    """sigmoid(LN(Linear(p))): weights in (0, 1) for a RoI feature, from its proposal feature p."""

    def __init__(self, hidden_dim, shape):
        """
        Args:
            hidden_dim (int): C.
            shape (tuple[int]): shape of the weights per RoI, (C, 1, 1) for channels or (1, r, r)
                for positions.
        """
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        self.shape = shape
        self.linear = nn.Linear(hidden_dim, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, roi_features, proposal_features):
        """
        Args:
            roi_features: (R, C, r, r), unused.
            proposal_features: (R, C).

        Returns:
            Tensor: (R, *shape).
        """
        return self.norm(self.linear(proposal_features)).sigmoid().view(-1, *self.shape)


class StaticChannelGate(nn.Module):
    """Channel attention of CBAM (ECCV 2018, equation 2), computed from the RoI feature alone.

    A shared feed-forward network processes the mean- and the max-pooled RoI feature. As in the
    released code, one LayerNorm normalises both outputs together, which preserves their relative
    magnitude. The sigmoid of their sum is the weight.
    """

    def __init__(self, hidden_dim, dim_feedforward, activation="relu"):
        super().__init__()
        self.feed_forward = FeedForward(hidden_dim, dim_feedforward, activation=activation)
        # One-dimensional: Xavier initialisation would treat a (2, C) weight as a matrix.
        self.norm = nn.LayerNorm(2 * hidden_dim)

    def forward(self, roi_features, proposal_features):
        """(R, C, r, r) and (R, C), unused, to (R, C, 1, 1)."""
        tokens = roi_features.flatten(2)
        pooled = torch.stack([tokens.mean(2), tokens.amax(2)], dim=1)
        of_mean, of_max = self.norm(self.feed_forward(pooled).flatten(1)).chunk(2, dim=1)
        return (of_mean + of_max).sigmoid()[:, :, None, None]


class StaticPositionGate(nn.Module):
    """Spatial attention of CBAM (ECCV 2018, equation 3), computed from the RoI feature alone.

    The convolution is 3x3 instead of CBAM's 7x7, which would cover a whole RoI feature.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, roi_features, proposal_features):
        """(R, C, r, r) and (R, C), unused, to (R, 1, r, r)."""
        mean, largest = roi_features.mean(1), roi_features.amax(1)
        return self.conv(torch.stack([mean, largest], dim=1)).sigmoid()


class CBAM(nn.Module):
    """x + s * (c * x): weighting of channels, then of positions, with a residual connection."""

    def __init__(self, channel_gate, position_gate):
        """
        Args:
            channel_gate (nn.Module): ``gate(x, p)`` returns c, (R, C, 1, 1).
            position_gate (nn.Module): ``gate(c * x, p)`` returns s, (R, 1, r, r).
        """
        super().__init__()
        self.channel_gate = channel_gate
        self.position_gate = position_gate

    def forward(self, roi_features, proposal_features):
        """(R, C, r, r) and (R, C) to (R, C, r, r)."""
        # LayerNorm returns float32 under autocast; keep the large tensors in the RoI's dtype.
        dtype = roi_features.dtype
        weighted = self.channel_gate(roi_features, proposal_features).to(dtype) * roi_features
        weighted = self.position_gate(weighted, proposal_features).to(dtype) * weighted
        return roi_features + weighted


@INTERACTION_REGISTRY.register("dual_attention")
class DualAttention(nn.Module):
    """Two branches over a RoI feature, conditioned on its proposal, summed and projected to C.

    * CBAM branch: x <- x + s * (c * x), NUM_CBAM times, starting from the RoI feature. The channel
      weights c and position weights s come from the proposal (dynamic) or from x (static).
    * RoI transformer branch: NUM_TRANSFORMER encoder layers over the L tokens of the RoI; a sine
      position code plus the proposal feature is added to queries and keys.

    The projection is [LayerNorm], Linear L * C -> C, LayerNorm. A branch with 0 layers is left out
    of the sum; with both left out, the RoI feature itself is projected.

    Two details that the paper leaves open follow from its parameter counts (R50-FPN, 100
    proposals): 65.5 M with r = 7, NUM_CBAM 4, NUM_TRANSFORMER 1, PRE_NORM; 78.1 M with r = 5,
    NUM_CBAM 1, NUM_TRANSFORMER 4, no PRE_NORM.

    * Every repetition of the CBAM has its own weights and computes its own c and s: with shared
      weights, the first model would have 64.0 M.
    * PRE_NORM normalises all L * C values of a RoI together, with a scale and a shift for each:
      over C alone, the first model would have 65.3 M.

    The published counts include the 50,176 scales and shifts of the batch norms in res3 to res5,
    which are buffers in detectron2; without them the models have 65,420,112 and 78,044,490.
    """

    @configurable
    def __init__(
        self,
        *,
        hidden_dim,
        pooler_resolution,
        num_cbam=4,
        num_transformer=1,
        dynamic_cbam=True,
        pre_norm=True,
        num_attention_heads=8,
        dim_feedforward=2048,
        dropout=0.0,
        activation="relu",
        roi_chunk=0,
    ):
        """
        Args:
            hidden_dim (int): C.
            pooler_resolution (int): r.
            num_cbam (int): repetitions of the CBAM; 0 disables the branch.
            num_transformer (int): layers of the RoI transformer; 0 disables the branch.
            dynamic_cbam (bool): c and s come from the proposal; False: from the RoI feature.
            pre_norm (bool): normalise the sum of the branches before its projection.
            num_attention_heads (int): heads of the RoI transformer.
            dim_feedforward (int): hidden width of the RoI transformer's and the static channel
                attention's feed-forward networks.
            dropout (float): probability, in the RoI transformer.
            activation (str): relu or gelu, in the feed-forward networks.
            roi_chunk (int): RoIs processed at a time; 0: all.

        Raises:
            ConfigError: a negative number, or a `hidden_dim` that is not a multiple of 4.
        """
        super().__init__()
        counts = {"NUM_CBAM": num_cbam, "NUM_TRANSFORMER": num_transformer, "ROI_CHUNK": roi_chunk}
        for key, value in counts.items():
            if value < 0:
                raise ConfigError(
                    f"MODEL.SparseRCNN.DUAL_ATTENTION.{key} must be 0 or more, got {value}."
                )
        self.roi_chunk = roi_chunk
        C, r = hidden_dim, pooler_resolution

        def build_cbam():
            if dynamic_cbam:
                return CBAM(DynamicGate(C, (C, 1, 1)), DynamicGate(C, (1, r, r)))
            return CBAM(StaticChannelGate(C, dim_feedforward, activation), StaticPositionGate())

        self.cbam = nn.ModuleList(build_cbam() for _ in range(num_cbam))
        self.transformer = nn.ModuleList(
            EncoderLayer(C, num_attention_heads, dim_feedforward, dropout, activation)
            for _ in range(num_transformer)
        )
        self.pre_norm = nn.LayerNorm(C * r * r) if pre_norm else nn.Identity()
        self.out_layer = nn.Linear(C * r * r, C)
        self.out_norm = nn.LayerNorm(C)
        # Not in the checkpoint: determined by the sizes.
        self.register_buffer("position_code", sine_position_code(r, r, C), persistent=False)

    @classmethod
    def from_config(cls, cfg):
        sparse = cfg.MODEL.SparseRCNN
        return {
            "hidden_dim": sparse.HIDDEN_DIM,
            "pooler_resolution": cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION,
            "num_cbam": sparse.DUAL_ATTENTION.NUM_CBAM,
            "num_transformer": sparse.DUAL_ATTENTION.NUM_TRANSFORMER,
            "dynamic_cbam": sparse.DUAL_ATTENTION.DYNAMIC_CBAM,
            "pre_norm": sparse.DUAL_ATTENTION.PRE_NORM,
            "num_attention_heads": sparse.NHEADS,
            "dim_feedforward": sparse.DIM_FEEDFORWARD,
            "dropout": sparse.DROPOUT,
            "activation": sparse.ACTIVATION,
            "roi_chunk": sparse.DUAL_ATTENTION.ROI_CHUNK,
        }

    def reset_parameters(self):
        """Initialise the matrices and kernels of all layers Xavier-uniform."""
        xavier_matrices(self)

    def forward(self, proposal_features, roi_features):
        """
        With `roi_chunk`, the activations of at most that many RoIs are in memory at a time; the
        backward pass recomputes them. Without dropout, the results are the same.

        Args:
            proposal_features: (R, C).
            roi_features: (R, C, r, r).

        Returns:
            Tensor: (R, C).
        """
        if not 0 < self.roi_chunk < len(proposal_features):
            return self._interact(proposal_features, roi_features)
        chunks = zip(
            proposal_features.split(self.roi_chunk), roi_features.split(self.roi_chunk), strict=True
        )
        if torch.is_grad_enabled():
            updates = [checkpoint(self._interact, *chunk, use_reentrant=False) for chunk in chunks]
        else:
            updates = [self._interact(*chunk) for chunk in chunks]
        return torch.cat(updates)

    def _interact(self, proposal_features, roi_features):
        branches = []
        if self.cbam:
            branches.append(self._weigh(proposal_features, roi_features))
        if self.transformer:
            branches.append(self._encode(proposal_features, roi_features))
        mixed = sum(branches[1:], branches[0]) if branches else roi_features
        return self.out_norm(self.out_layer(self.pre_norm(mixed.flatten(1))))

    def _weigh(self, proposal_features, roi_features):
        """The CBAM branch, (R, C, r, r)."""
        for layer in self.cbam:
            roi_features = layer(roi_features, proposal_features)
        return roi_features

    def _encode(self, proposal_features, roi_features):
        """The RoI transformer branch, (R, C, r, r)."""
        tokens = roi_features.flatten(2).transpose(1, 2)  # (R, L, C)
        position = self.position_code + proposal_features[:, None]
        for layer in self.transformer:
            tokens = layer(tokens, position)
        return tokens.transpose(1, 2).reshape(roi_features.shape)

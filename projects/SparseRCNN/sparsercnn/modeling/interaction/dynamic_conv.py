import torch
from detectron2.config import configurable
from torch import nn

from ...errors import ConfigError
from ..layers import xavier_matrices
from .build import INTERACTION_REGISTRY

__all__ = ["DynamicConv", "DynamicMixing"]


class DynamicMixing(nn.Module):
    """Two matrices that each proposal feature generates, acting on the pixels of its RoI feature as
    two 1x1 convolutions (Sparse R-CNN, section 3.2 and figure 4)."""

    def __init__(self, hidden_dim, dim_dynamic):
        """
        Args:
            hidden_dim (int): C.
            dim_dynamic (int): D, channels between the two matrices.
        """
        super().__init__()
        self.hidden_dim = hidden_dim
        self.dim_dynamic = dim_dynamic
        self.dynamic_layer = nn.Linear(hidden_dim, 2 * hidden_dim * dim_dynamic)
        self.norm1 = nn.LayerNorm(dim_dynamic)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.activation = nn.ReLU(inplace=True)

    def reset_parameters(self):
        """Initialise the matrices of all layers Xavier-uniform."""
        xavier_matrices(self)

    def forward(self, proposal_features, roi_features):
        """
        Args:
            proposal_features: (R, C).
            roi_features: (R, C, r, r).

        Returns:
            Tensor: (R, r * r, C), the pixels in row-major order.
        """
        R, C = proposal_features.shape
        matrix1, matrix2 = self.dynamic_layer(proposal_features).chunk(2, dim=1)
        tokens = roi_features.flatten(2).transpose(1, 2)  # (R, r * r, C)
        tokens = torch.bmm(tokens, matrix1.view(R, C, self.dim_dynamic))
        tokens = self.activation(self.norm1(tokens))
        tokens = torch.bmm(tokens, matrix2.view(R, self.dim_dynamic, C))
        return self.activation(self.norm2(tokens))


@INTERACTION_REGISTRY.register("dynamic_conv")
class DynamicConv(DynamicMixing):
    """Dynamic instance interaction: :class:`DynamicMixing`, and a projection of the whole RoI
    feature to one vector."""

    @configurable
    def __init__(self, *, hidden_dim, dim_dynamic, pooler_resolution):
        """
        Args:
            hidden_dim (int): C.
            dim_dynamic (int): D, channels between the two matrices.
            pooler_resolution (int): r, the side of a RoI feature.
        """
        super().__init__(hidden_dim, dim_dynamic)
        self.out_layer = nn.Linear(hidden_dim * pooler_resolution**2, hidden_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)

    @classmethod
    def from_config(cls, cfg):
        if cfg.MODEL.SparseRCNN.NUM_DYNAMIC != 2:
            raise ConfigError(
                "MODEL.SparseRCNN.NUM_DYNAMIC must be 2, the number of matrices in dynamic_conv, "
                f"got {cfg.MODEL.SparseRCNN.NUM_DYNAMIC}."
            )
        return {
            "hidden_dim": cfg.MODEL.SparseRCNN.HIDDEN_DIM,
            "dim_dynamic": cfg.MODEL.SparseRCNN.DIM_DYNAMIC,
            "pooler_resolution": cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION,
        }

    def forward(self, proposal_features, roi_features):
        """
        Args:
            proposal_features: (R, C).
            roi_features: (R, C, r, r).

        Returns:
            Tensor: (R, C).
        """
        tokens = super().forward(proposal_features, roi_features)
        return self.activation(self.norm3(self.out_layer(tokens.flatten(1))))

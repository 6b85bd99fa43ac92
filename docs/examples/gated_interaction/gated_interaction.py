"""An interaction of one's own: the proposal gates the channels of its averaged RoI feature."""

from detectron2.config import configurable
from torch import nn

from sparsercnn.modeling.interaction import INTERACTION_REGISTRY


def add_config(cfg):
    """Called by sparsercnn for each config, before any file is read."""
    cfg.MODEL.SparseRCNN.GATE_DIM = 64  # channels between the proposal feature and its gate


@INTERACTION_REGISTRY.register("gated")
class GatedInteraction(nn.Module):
    """sigmoid(gate(proposal)) x mean of the RoI feature, projected."""

    @configurable
    def __init__(self, *, hidden_dim, gate_dim):
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(hidden_dim, gate_dim), nn.ReLU(), nn.Linear(gate_dim, hidden_dim)
        )
        self.out_layer = nn.Linear(hidden_dim, hidden_dim)

    @classmethod
    def from_config(cls, cfg):
        sparse = cfg.MODEL.SparseRCNN
        return {"hidden_dim": sparse.HIDDEN_DIM, "gate_dim": sparse.GATE_DIM}

    def forward(self, proposal_features, roi_features):
        """(R, C) and (R, C, r, r) -> (R, C)."""
        gate = self.gate(proposal_features).sigmoid()
        return self.out_layer(gate * roi_features.mean(dim=(2, 3)))

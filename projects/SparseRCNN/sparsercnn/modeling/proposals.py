"""Where the first boxes and features of an image come from.

A generator is a module ``proposals(features, image_sizes) -> (boxes, proposal_features)``:

* features: list of the pyramid's maps, finest first, each (B, C, H_l, W_l).
* image_sizes: (B, 4), (w, h, w, h) in pixels before batch padding.
* boxes: (B, N, 4), absolute xyxy; proposal_features: (B, N, C).
"""

import torch
from detectron2.config import configurable
from torch import nn
from torchvision.ops import box_convert

from ..registry import NamedRegistry

__all__ = ["PROPOSALS_REGISTRY", "LearnedProposals", "build_proposals"]

PROPOSALS_REGISTRY = NamedRegistry("PROPOSALS")


def build_proposals(cfg):
    """Build the generator that ``MODEL.SparseRCNN.PROPOSALS.NAME`` names."""
    return PROPOSALS_REGISTRY.get(cfg.MODEL.SparseRCNN.PROPOSALS.NAME)(cfg)


@PROPOSALS_REGISTRY.register("learned")
class LearnedProposals(nn.Module):
    """The same N learned boxes and features for every image (Sparse R-CNN, section 3.1)."""

    @configurable
    def __init__(self, *, num_proposals, hidden_dim):
        """
        Args:
            num_proposals (int): N.
            hidden_dim (int): C.
        """
        super().__init__()
        self.init_proposal_features = nn.Embedding(num_proposals, hidden_dim)
        # cx cy w h as fractions of the image's size: at first, all are the whole image.
        self.init_proposal_boxes = nn.Embedding(num_proposals, 4)
        with torch.no_grad():
            self.init_proposal_boxes.weight[:, :2] = 0.5
            self.init_proposal_boxes.weight[:, 2:] = 1.0

    @classmethod
    def from_config(cls, cfg):
        return {
            "num_proposals": cfg.MODEL.SparseRCNN.NUM_PROPOSALS,
            "hidden_dim": cfg.MODEL.SparseRCNN.HIDDEN_DIM,
        }

    def forward(self, features, image_sizes):
        """See the module's docstring."""
        boxes = box_convert(self.init_proposal_boxes.weight, "cxcywh", "xyxy")
        boxes = boxes[None] * image_sizes[:, None]
        proposal_features = self.init_proposal_features.weight.expand(len(image_sizes), -1, -1)
        return boxes, proposal_features

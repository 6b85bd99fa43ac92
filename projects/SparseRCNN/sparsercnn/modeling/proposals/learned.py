"""Learned proposals, the same for all images."""

import math

import torch
from detectron2.config import configurable
from torch import nn
from torchvision.ops import box_convert

from ...errors import ConfigError
from .build import PROPOSALS_REGISTRY

__all__ = ["LearnedProposals", "initial_boxes"]


@PROPOSALS_REGISTRY.register("learned")
class LearnedProposals(nn.Module):
    """The same N learned boxes and features for every image (Sparse R-CNN, section 3.1)."""

    @configurable
    def __init__(self, *, num_proposals, hidden_dim, init="image"):
        """
        Args:
            num_proposals (int): N.
            hidden_dim (int): C.
            init (str): initial boxes, see :func:`initial_boxes`.
        """
        super().__init__()
        self.init_proposal_features = nn.Embedding(num_proposals, hidden_dim)
        # cx cy w h as fractions of the image's size.
        self.init_proposal_boxes = nn.Embedding(num_proposals, 4)
        with torch.no_grad():
            self.init_proposal_boxes.weight.copy_(initial_boxes(init, num_proposals))

    @classmethod
    def from_config(cls, cfg):
        return {
            "num_proposals": cfg.MODEL.SparseRCNN.NUM_PROPOSALS,
            "hidden_dim": cfg.MODEL.SparseRCNN.HIDDEN_DIM,
            "init": cfg.MODEL.SparseRCNN.PROPOSALS.INIT,
        }

    def forward(self, features, image_sizes):
        """See :mod:`sparsercnn.modeling.proposals`."""
        boxes = box_convert(self.init_proposal_boxes.weight, "cxcywh", "xyxy")
        boxes = boxes[None] * image_sizes[:, None]
        proposal_features = self.init_proposal_features.weight.expand(image_sizes.shape[0], -1, -1)
        return boxes, proposal_features


def initial_boxes(init, num_proposals):
    """
    Args:
        init (str): as in Sparse R-CNN's table of initialisations (section 4.3),

            * image: every box is the whole image;
            * center: every box is centred, with a tenth of the image's width and height;
            * grid: adjacent boxes in a grid, as square as N allows; the last row may be incomplete;
            * random: centre and size from a normal distribution with mean 1/2 and standard
              deviation 1/4, clamped to [0, 1] and [0.05, 1].

        num_proposals (int): N.

    Returns:
        Tensor: (N, 4), cx cy w h as fractions of the image's size.

    Raises:
        ConfigError: unknown `init`.
    """
    if init == "image":
        return torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(num_proposals, 1)
    if init == "center":
        return torch.tensor([0.5, 0.5, 0.1, 0.1]).repeat(num_proposals, 1)
    if init == "grid":
        columns = math.ceil(math.sqrt(num_proposals))
        rows = math.ceil(num_proposals / columns)
        cell = torch.arange(num_proposals)
        cx = (cell % columns + 0.5) / columns
        cy = (torch.div(cell, columns, rounding_mode="floor") + 0.5) / rows
        return torch.stack(
            [cx, cy, torch.full_like(cx, 1 / columns), torch.full_like(cx, 1 / rows)], dim=1
        )
    if init == "random":
        boxes = 0.5 + 0.25 * torch.randn(num_proposals, 4)
        return torch.cat([boxes[:, :2].clamp(0, 1), boxes[:, 2:].clamp(0.05, 1)], dim=1)
    raise ConfigError(
        f"MODEL.SparseRCNN.PROPOSALS.INIT is '{init}'; it must be image, center, grid or random."
    )

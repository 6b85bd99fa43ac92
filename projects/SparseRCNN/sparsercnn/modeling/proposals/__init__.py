"""Initial boxes and features of an image.

A generator is a module ``proposals(features, image_sizes) -> (boxes, proposal_features)``:

* features: list of the pyramid's maps, finest first, each (B, C, H_l, W_l).
* image_sizes: (B, 4), (w, h, w, h) in pixels before batch padding.
* boxes: (B, N, 4), absolute xyxy; proposal_features: (B, N, C).
"""

from .build import PROPOSALS_REGISTRY, build_proposals
from .dynamic import DynamicProposalGenerator
from .learned import LearnedProposals

__all__ = ["PROPOSALS_REGISTRY", "DynamicProposalGenerator", "LearnedProposals", "build_proposals"]

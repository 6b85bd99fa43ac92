"""Matching of proposals with objects.

A matcher is a module ``matcher(class_logits, boxes, targets) -> Assignment``:

* class_logits: (S, B, N, K), float32, of all stages with a loss.
* boxes: (S, B, N, 4), float32, absolute xyxy.
* targets: :class:`sparsercnn.structures.Targets`.

The attribute ``normalizes_by_objects = True`` states that the assignment's normaliser is the number
of objects; gradient accumulation then needs no forward pass to count.
"""

from .build import MATCHER_REGISTRY, build_matcher
from .costs import LossWeights, MatchingCost, build_matching_cost
from .hungarian import HungarianMatcher
from .transport import OptimalTransportMatcher

__all__ = [
    "MATCHER_REGISTRY",
    "HungarianMatcher",
    "LossWeights",
    "MatchingCost",
    "OptimalTransportMatcher",
    "build_matcher",
    "build_matching_cost",
]

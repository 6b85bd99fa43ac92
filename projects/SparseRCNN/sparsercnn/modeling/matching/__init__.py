"""Which proposal answers for which object.

A matcher is a module ``matcher(class_logits, boxes, targets) -> Assignment``:

* class_logits: (S, B, N, K), float32, of all stages with a loss.
* boxes: (S, B, N, 4), float32, absolute xyxy.
* targets: :class:`sparsercnn.structures.Targets`.

With an attribute ``normalizes_by_objects = True`` it promises that the assignment's normaliser is
the number of objects, so that accumulated gradients need no forward pass to count.
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

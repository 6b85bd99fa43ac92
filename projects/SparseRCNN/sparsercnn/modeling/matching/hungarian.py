import torch
from detectron2.config import configurable
from scipy.optimize import linear_sum_assignment
from torch import nn

from ...structures import Assignment
from .build import MATCHER_REGISTRY
from .costs import MatchingCost, build_matching_cost

__all__ = ["HungarianMatcher"]

# Replaces a cost that is not finite: the solver runs, and the check of the losses reports it.
_FORBIDDEN = 1e6


@MATCHER_REGISTRY.register("hungarian")
class HungarianMatcher(nn.Module):
    """One-to-one matching of least total cost (DETR, section 3.1; Sparse R-CNN, section 3.3).

    Every object gets a proposal of its own. If there are more objects than proposals, every
    proposal gets an object, and the costliest objects get none.
    """

    normalizes_by_objects = True

    @configurable
    def __init__(self, *, matching_cost=None):
        """
        Args:
            matching_cost (MatchingCost): the cost to minimise; None: MatchingCost().
        """
        super().__init__()
        self.matching_cost = matching_cost or MatchingCost()

    @classmethod
    def from_config(cls, cfg):
        return {"matching_cost": build_matching_cost(cfg)}

    @torch.no_grad()
    def forward(self, class_logits, boxes, targets):
        """See :mod:`sparsercnn.modeling.matching`."""
        S, B, N, _ = class_logits.shape
        cost = self.matching_cost(class_logits, boxes, targets)
        # The only transfer to the host in an iteration, for all stages and images at once.
        cost = torch.nan_to_num(cost, _FORBIDDEN, _FORBIDDEN, -_FORBIDDEN).cpu().numpy()
        target_index = torch.full((S, B, N), -1)
        for s in range(S):
            for b, count in enumerate(targets.counts):
                proposals, objects = linear_sum_assignment(cost[s, b, :, :count])
                target_index[s, b, proposals] = torch.from_numpy(objects)
        num_objects = torch.full((S,), float(sum(targets.counts)))
        return Assignment(
            target_index=target_index.to(boxes.device, non_blocking=True),
            normalizer=num_objects.to(boxes.device, non_blocking=True),
            capacity=[sum(min(N, count) for count in targets.counts)] * S,
        )

import torch
from detectron2.config import configurable
from scipy.optimize import linear_sum_assignment
from torch import nn

from ...structures import Assignment
from .build import MATCHER_REGISTRY
from .costs import cost_settings, focal_cost, giou_cost, l1_cost, softmax_cost

__all__ = ["HungarianMatcher"]

# Stands for a cost that is not finite, so that the solver runs and the loss can tell the story.
_FORBIDDEN = 1e6


@MATCHER_REGISTRY.register("hungarian")
class HungarianMatcher(nn.Module):
    """One-to-one matching of least total cost (DETR, section 3.1; Sparse R-CNN, section 3.3).

    Every object gets a proposal of its own; where there are more objects than proposals, every
    proposal gets an object and the costliest objects get none.
    """

    @configurable
    def __init__(
        self,
        *,
        class_weight=2.0,
        l1_weight=5.0,
        giou_weight=2.0,
        use_focal=True,
        alpha=0.25,
        gamma=2.0,
    ):
        """
        Args:
            class_weight, l1_weight, giou_weight (float): weights of the three costs.
            use_focal (bool): sigmoid focal cost; False: softmax with a "no object" class.
            alpha, gamma (float): of the focal cost.
        """
        super().__init__()
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.use_focal = use_focal
        self.alpha = alpha
        self.gamma = gamma

    @classmethod
    def from_config(cls, cfg):
        return cost_settings(cfg)

    @torch.no_grad()
    def forward(self, class_logits, boxes, targets):
        """See :mod:`sparsercnn.modeling.matching`."""
        S, B, N, _ = class_logits.shape
        cost = self.cost(class_logits, boxes, targets)
        # The one transfer to the host of an iteration: the problems of all stages and images.
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
        )

    def cost(self, class_logits, boxes, targets):
        """
        Returns:
            Tensor: (S, B, N, M), the weighted sum of the costs; columns of padding mean nothing.
        """
        if self.use_focal:
            class_cost = focal_cost(class_logits, targets.classes, self.alpha, self.gamma)
        else:
            class_cost = softmax_cost(class_logits, targets.classes)
        return (
            self.class_weight * class_cost
            + self.l1_weight * l1_cost(boxes, targets.boxes, targets.image_sizes)
            + self.giou_weight * giou_cost(boxes, targets.boxes)
        )

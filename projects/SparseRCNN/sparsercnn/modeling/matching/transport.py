import math

import torch
from detectron2.config import configurable
from torch import nn
from torchvision.ops import box_iou

from ...errors import ConfigError
from ...structures import Assignment
from ..training_log import put_statistics, statistics_due
from .build import MATCHER_REGISTRY
from .costs import MatchingCost, build_matching_cost
from .rounding import ROUNDINGS, round_plan
from .sinkhorn import marginal_error, sinkhorn

__all__ = ["OptimalTransportMatcher"]

# Replaces a larger cost, or one that is not finite: the problem can be solved, other images are not
# affected, and the check of the losses reports it.
_FORBIDDEN = 1e3
# Larger costs are replaced by their logarithm, which keeps their order. 20 is the L1 cost of a
# box whose four sides are off by a whole image each. Boxes of an untrained head are up to a hundred
# images large: with few proposals, supplies were then unmet by up to 90 units after 30 iterations.
_SATURATION = 20.0


@MATCHER_REGISTRY.register("optimal_transport")
class OptimalTransportMatcher(nn.Module):
    """Dynamic label assignment: one-to-many, with more proposals per object from stage to stage
    (Dynamic Sparse R-CNN, section 3.2).

    Objects and the background supply units, each proposal demands one, and the transport plan of
    least cost assigns them. All stages and images are one batch of problems, padded to one shape.
    """

    @configurable
    def __init__(
        self,
        *,
        k=3,
        dynamic_k=False,
        top_q=8,
        step=0.5,
        epsilon=0.005,
        num_iterations=30,
        rounding="supply",
        matching_cost=None,
    ):
        """
        Args:
            k (float): units that an object supplies at the last stage.
            dynamic_k (bool): estimate k for each object and stage; see :meth:`supply`.
            top_q (int): q, number of boxes used for the estimate.
            step (float): reduction of k for each stage before the last.
            epsilon (float): regularisation, in units of cost; smaller differences do not count.
            num_iterations (int): of the solver.
            rounding (str): from a plan to an assignment, see :func:`round_plan`.
            matching_cost (MatchingCost): None: MatchingCost().

        Raises:
            ConfigError: a number out of its range, or an unknown `rounding`.
        """
        super().__init__()
        for key, value, least in (
            ("K", k, 1),
            ("TOP_Q", top_q, 1),
            ("STEP", step, 0),
            ("SINKHORN_EPS", epsilon, 1e-4),
            ("SINKHORN_ITERS", num_iterations, 1),
        ):
            if value < least:
                raise ConfigError(
                    f"MODEL.SparseRCNN.MATCHER.{key} is {value}; it must be {least} or more."
                )
        if rounding not in ROUNDINGS:
            raise ConfigError(
                f"MODEL.SparseRCNN.MATCHER.ROUNDING is '{rounding}'; it must be one of "
                f"{', '.join(ROUNDINGS)}."
            )
        self.k = k
        self.dynamic_k = dynamic_k
        self.top_q = top_q
        self.step = step
        self.epsilon = epsilon
        self.num_iterations = num_iterations
        self.rounding = rounding
        self.matching_cost = matching_cost or MatchingCost()

    @classmethod
    def from_config(cls, cfg):
        sparse = cfg.MODEL.SparseRCNN
        return {
            "k": sparse.MATCHER.K,
            "dynamic_k": sparse.MATCHER.DYNAMIC_K,
            "top_q": sparse.MATCHER.TOP_Q,
            "step": sparse.MATCHER.STEP,
            "epsilon": sparse.MATCHER.SINKHORN_EPS,
            "num_iterations": sparse.MATCHER.SINKHORN_ITERS,
            "rounding": sparse.MATCHER.ROUNDING,
            "matching_cost": build_matching_cost(cfg),
        }

    @torch.no_grad()
    def forward(self, class_logits, boxes, targets):
        """See :mod:`sparsercnn.modeling.matching`."""
        cost = self.cost(class_logits, boxes, targets)
        supply = self.supply(boxes, targets)
        plan = sinkhorn(cost, supply, self.epsilon, self.num_iterations)
        row = round_plan(plan, supply, cost, self.rounding)
        background = cost.shape[-2] - 1
        assignment = Assignment(
            target_index=torch.where(row == background, -1, row),
            normalizer=(row != background).flatten(1).sum(1).float(),
            capacity=self.capacity(*boxes.shape[:3:2], targets.counts),
        )
        if statistics_due("sinkhorn_error"):
            _put_statistics(assignment, marginal_error(plan, supply), sum(targets.counts))
        return assignment

    def cost(self, class_logits, boxes, targets):
        """A proposal's losses if matched with each object, minus its losses as background.

        The subtracted value is the same for all suppliers of a proposal, and changes no plan. Costs
        above 20 grow logarithmically.

        Returns:
            Tensor: (S, B, M + 1, N); the last row, 0, is the background. Rows of padding are to be
            ignored.
        """
        cost = self.matching_cost.loss_change(class_logits, boxes, targets)
        cost = torch.nan_to_num(cost, _FORBIDDEN, _FORBIDDEN, _FORBIDDEN)
        cost = cost.clamp(-_FORBIDDEN, _FORBIDDEN)
        excess = cost.clamp(min=_SATURATION) / _SATURATION
        cost = cost.clamp(max=_SATURATION) + _SATURATION * excess.log()
        return nn.functional.pad(cost.mT, (0, 0, 0, 1))

    def supply(self, boxes, targets):
        """Supplies of the objects and the background, N units in total.

        k(g, t) = max(k_g - step * (T - t), 1) for object g at stage t of T, where k_g is `k`, or
        with `dynamic_k` the sum of the q largest IoUs of the stage's boxes with g, rounded down,
        at least 1. If their sum exceeds N, all are scaled down to a sum of N.

        Args:
            boxes: (S, B, N, 4), absolute xyxy, of the last S of T stages.
            targets (Targets): the objects.

        Returns:
            Tensor: (S, B, M + 1), the background last; 0 for padding.
        """
        S, B, N, _ = boxes.shape
        M = targets.boxes.shape[1]
        stages_to_go = torch.arange(S - 1, -1, -1, device=boxes.device)[:, None, None]
        units = self._estimate_k(boxes, targets.boxes) if self.dynamic_k else self.k
        units = (units - self.step * stages_to_go).clamp(min=1)
        units = torch.where(targets.valid, units, 0.0).expand(S, B, M)
        total = units.sum(-1, keepdim=True)
        units = units * (N / total).clamp(max=1)
        background = torch.where(total < N, N - total, 0.0)
        return torch.cat([units, background], dim=-1)

    def capacity(self, num_stages, num_proposals, counts):
        """Most proposals that the objects can take at each stage, see :func:`round_plan`.

        Args:
            num_stages (int): S.
            num_proposals (int): N.
            counts (list[int]): objects of each image.

        Returns:
            list[int]: S numbers; None if the rounding sets no limit.
        """
        if self.rounding != "supply":
            return None
        most = self.top_q if self.dynamic_k else self.k
        supplies = [most - self.step * (num_stages - 1 - s) for s in range(num_stages)]
        return [
            sum(min(num_proposals, count * max(math.ceil(supply), 1)) for count in counts)
            for supply in supplies
        ]

    def _estimate_k(self, boxes, target_boxes):
        S, B, N, _ = boxes.shape
        target_boxes = target_boxes.expand(S, -1, -1, -1)
        iou = torch.vmap(box_iou)(target_boxes.flatten(0, 1), boxes.flatten(0, 1))
        # 0 / 0 for two boxes without area, and for boxes that are not finite.
        best = torch.nan_to_num(iou).topk(min(self.top_q, N)).values
        return best.sum(-1).floor().clamp(min=1).view(S, B, -1)


def _put_statistics(assignment, error, num_objects):
    statistics = {}
    if num_objects > 0:
        *earlier, last = assignment.normalizer / num_objects
        statistics = {f"positives_per_object_{i}": value for i, value in enumerate(earlier)}
        statistics["positives_per_object"] = last
    put_statistics({**statistics, "sinkhorn_error": error.max()})

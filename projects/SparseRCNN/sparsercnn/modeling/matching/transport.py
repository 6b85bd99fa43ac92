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

# Stands for a cost that is not finite, or beyond it: so that the problem is solved, that of the
# other images unimpaired, and the loss can tell the story.
_FORBIDDEN = 1e3
# Beyond this, which is the L1 cost of sides that are off by a whole image each, costs grow by their
# logarithm: which proposal is worse stays as it is, and the solver copes. The boxes of an untrained
# head are up to a hundred images large, and where proposals are scarce 30 iterations left supplies
# unmet by up to 90 units.
_SATURATION = 20.0


@MATCHER_REGISTRY.register("optimal_transport")
class OptimalTransportMatcher(nn.Module):
    """Dynamic label assignment: one-to-many, and more so from stage to stage (Dynamic Sparse R-CNN,
    section 3.2).

    Objects and the background supply units, each proposal demands one, and the plan of least cost
    tells who serves whom. All stages of all images are one batch of problems, padded to one shape.
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
            top_q (int): q, how many boxes the estimate takes.
            step (float): units fewer per stage before the last.
            epsilon (float): regularisation, in units of cost; costs that differ less are equal.
            num_iterations (int): of the solver.
            rounding (str): from a plan to an assignment, see :func:`round_plan`.
            matching_cost (MatchingCost): knows what the losses would be; None:
                MatchingCost().

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
        )
        if statistics_due("sinkhorn_error"):
            _put_statistics(assignment, marginal_error(plan, supply), sum(targets.counts))
        return assignment

    def cost(self, class_logits, boxes, targets):
        """What a proposal's losses would be with each object, less what they are as background.

        What is taken away is the same for all who might serve a proposal, and changes no plan.
        Beyond 20, costs grow by their logarithm.

        Returns:
            Tensor: (S, B, M + 1, N); the last row is the background, 0. Rows of padding mean
            nothing.
        """
        cost = self.matching_cost.loss_change(class_logits, boxes, targets)
        cost = torch.nan_to_num(cost, _FORBIDDEN, _FORBIDDEN, _FORBIDDEN)
        cost = cost.clamp(-_FORBIDDEN, _FORBIDDEN)
        excess = cost.clamp(min=_SATURATION) / _SATURATION
        cost = cost.clamp(max=_SATURATION) + _SATURATION * excess.log()
        return nn.functional.pad(cost.mT, (0, 0, 0, 1))

    def supply(self, boxes, targets):
        """Units that each object and the background have to give, N together.

        k(g, t) = max(k_g - step * (T - t), 1) for object g at stage t of T, where k_g is `k`, or
        with `dynamic_k` the sum of the q largest IoUs of the stage's boxes with g, rounded down,
        at least 1. Where they exceed N together, all are scaled down to that.

        Args:
            boxes: (S, B, N, 4), absolute xyxy; the last S of T stages.
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

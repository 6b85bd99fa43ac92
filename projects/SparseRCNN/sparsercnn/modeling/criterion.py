"""The set losses of Sparse R-CNN (section 3.3), over all stages at once."""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.utils import comm
from fvcore.nn import sigmoid_focal_loss
from torch import nn

from .boxes import paired_giou
from .matching import build_matcher
from .matching.costs import cost_settings

__all__ = ["SetCriterion"]


class SetCriterion(nn.Module):
    """Match proposals with objects and weigh up how far apart they are.

    Everything has the fixed shape (S, B, N, ...) and is masked rather than indexed, so that
    nothing waits for the device.
    """

    @configurable
    def __init__(
        self,
        *,
        matcher,
        class_weight=2.0,
        l1_weight=5.0,
        giou_weight=2.0,
        use_focal=True,
        alpha=0.25,
        gamma=2.0,
        no_object_weight=0.1,
    ):
        """
        Args:
            matcher (nn.Module): see :mod:`sparsercnn.modeling.matching`.
            class_weight, l1_weight, giou_weight (float): weights of the three losses.
            use_focal (bool): sigmoid focal loss; False: softmax with a "no object" class.
            alpha, gamma (float): of the focal loss.
            no_object_weight (float): class weight of "no object" in the softmax loss.
        """
        super().__init__()
        self.matcher = matcher
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.use_focal = use_focal
        self.alpha = alpha
        self.gamma = gamma
        self.no_object_weight = no_object_weight

    @classmethod
    def from_config(cls, cfg):
        sparse = cfg.MODEL.SparseRCNN
        return {
            "matcher": build_matcher(cfg),
            **cost_settings(cfg),
            "no_object_weight": sparse.NO_OBJECT_WEIGHT,
        }

    def forward(self, class_logits, boxes, targets):
        """
        Args:
            class_logits: (S, B, N, K), or K + 1 with the softmax loss.
            boxes: (S, B, N, 4), absolute xyxy.
            targets (Targets): the objects.

        Returns:
            dict[str, Tensor]: weighted scalars loss_ce, loss_bbox and loss_giou of the last
            stage, and the same with suffix _0, _1, ... of the stages before it.
        """
        with torch.autocast(boxes.device.type, enabled=False):
            class_logits, boxes = class_logits.float(), boxes.float()
            assignment = self.matcher(class_logits, boxes, targets)
            normalizer = _average_over_workers(assignment.normalizer)
            box_loss, giou_loss = self.box_losses(boxes, targets, assignment)
            losses = {
                "loss_ce": self.class_weight
                * self.class_loss(class_logits, targets, assignment, normalizer),
                "loss_bbox": self.l1_weight * box_loss / normalizer,
                "loss_giou": self.giou_weight * giou_loss / normalizer,
            }
        return _name_by_stage(losses)

    def class_loss(self, class_logits, targets, assignment, normalizer):
        """
        Returns:
            Tensor: (S,), the focal loss of all proposals and classes over `normalizer`; or the
            mean cross-entropy weighted by class, which has its own normaliser.
        """
        positive = assignment.positive
        classes = assignment.gather(targets.classes)
        if self.use_focal:
            labels = torch.zeros_like(class_logits)
            labels.scatter_(-1, classes[..., None], positive[..., None].to(labels.dtype))
            loss = sigmoid_focal_loss(class_logits, labels, self.alpha, self.gamma)
            return loss.sum(dim=(1, 2, 3)) / normalizer
        no_object = class_logits.shape[-1] - 1
        classes = torch.where(positive, classes, no_object)
        weights = torch.where(positive, 1.0, self.no_object_weight)
        loss = F.cross_entropy(class_logits.movedim(-1, 1), classes, reduction="none")
        return (weights * loss).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))

    def box_losses(self, boxes, targets, assignment):
        """
        Returns:
            tuple[Tensor, Tensor]: each (S,), sums over the matched pairs of the L1 distance of
            corners, as fractions of the image's size, and of 1 - GIoU.
        """
        positive = assignment.positive
        target_boxes = assignment.gather(targets.boxes)
        # Background is its own target: no loss, no gradient, and no overflow in a useless area.
        matched = torch.where(positive[..., None], boxes, target_boxes)
        sizes = targets.image_sizes[:, None]
        l1 = (matched / sizes - target_boxes / sizes).abs().sum(dim=(1, 2, 3))
        giou = (positive * (1 - paired_giou(matched, target_boxes))).sum(dim=(1, 2))
        # Zero, unless a box is not finite: then the loss of its stage says so, matched or not.
        # It also ties the boxes to the graph when a batch has no objects.
        return l1 + (boxes * 0).sum(dim=(1, 2, 3)), giou


def _average_over_workers(count):
    """Mean of `count` over the workers, at least 1; without waiting for the device."""
    num_workers = comm.get_world_size()
    if num_workers > 1:
        count = count.clone()
        torch.distributed.all_reduce(count)
    return (count / num_workers).clamp(min=1)


def _name_by_stage(losses):
    named = {}
    for name, values in losses.items():
        *earlier, last = values.unbind()
        named[name] = last
        named.update({f"{name}_{i}": value for i, value in enumerate(earlier)})
    return named

"""The set losses of Sparse R-CNN (section 3.3), over all stages at once."""

from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.utils import comm
from torch import Tensor, nn

from .boxes import paired_giou
from .classification import FocalClassification, build_classification
from .matching import build_matcher
from .matching.costs import LossWeights

__all__ = ["Normalizers", "SetCriterion"]


@dataclass
class Normalizers:
    """Divisors of the losses of one batch, as counted on one worker.

    Attributes:
        matched: (S,), of the box losses, before the average over workers.
        classes: (S,), of the class loss, before the average over workers; None: `matched`.
    """

    matched: Tensor
    classes: Tensor | None


class SetCriterion(nn.Module):
    """Match proposals with objects, and compute the losses of class, box and GIoU.

    All tensors have the fixed shape (S, B, N, ...) and are masked instead of indexed, so that the
    host does not wait for the device.

    Losses are sums. They are divided by the matcher's count of objects or positives, averaged over
    workers and at least 1; the softmax's class loss by the sum of its class weights, averaged over
    workers. The mean over workers, which DistributedDataParallel takes of gradients, is then that
    of one worker with all images, if these have at least one object for each worker.

    Attributes:
        normalizers (Normalizers): of the latest forward pass.
    """

    @configurable
    def __init__(self, *, matcher, classification=None, weights=None, mask_weight=8.0):
        """
        Args:
            matcher (nn.Module): see :mod:`sparsercnn.modeling.matching`.
            classification (FocalClassification | SoftmaxClassification): computes the class loss;
                None: FocalClassification().
            weights (LossWeights): of the three losses; None: LossWeights().
            mask_weight (float): of the masks' dice loss.
        """
        super().__init__()
        self.matcher = matcher
        self.classification = classification or FocalClassification()
        self.weights = weights or LossWeights()
        self.mask_weight = mask_weight
        self.normalizers = None

    @classmethod
    def from_config(cls, cfg):
        return {
            "matcher": build_matcher(cfg),
            "classification": build_classification(cfg),
            "weights": LossWeights.from_config(cfg),
            "mask_weight": cfg.MODEL.SparseRCNN.MASK.WEIGHT,
        }

    def forward(self, class_logits, boxes, targets, mask_loss=None):
        """
        Args:
            class_logits: (S, B, N, K), or K + 1 with the softmax loss.
            boxes: (S, B, N, 4), absolute xyxy.
            targets (Targets): the objects.
            mask_loss (callable): ``mask_loss(assignment)`` returns the sums (S,) of the masks' loss
                over the matched pairs; None: there are no masks.

        Returns:
            dict[str, Tensor]: weighted scalars loss_ce, loss_bbox, loss_giou and, with masks,
            loss_mask of the last stage, and with suffix _0, _1, ... those of the stages before it.
        """
        with torch.autocast(boxes.device.type, enabled=False):
            class_logits, boxes = class_logits.float(), boxes.float()
            assignment = self.matcher(class_logits, boxes, targets)
            classes = assignment.gather(targets.classes)
            own = self.classification.normalizer(classes, assignment.positive)
            self.normalizers = Normalizers(matched=assignment.normalizer, classes=own)
            normalizer = _average_over_workers(assignment.normalizer)
            class_loss = self.classification.loss(class_logits, classes, assignment.positive)
            class_normalizer = normalizer if own is None else _mean_over_workers(own)
            box_loss, giou_loss = self.box_losses(boxes, targets, assignment)
            losses = {
                "loss_ce": self.weights.classification * (class_loss / class_normalizer),
                "loss_bbox": self.weights.l1 * box_loss / normalizer,
                "loss_giou": self.weights.giou * giou_loss / normalizer,
            }
        if mask_loss is not None:  # its convolutions may have half precision
            losses["loss_mask"] = self.mask_weight * mask_loss(assignment) / normalizer
        return _name_by_stage(losses)

    @property
    def late_normalizers(self):
        """list[str]: descriptions of divisors that are known only after the forward pass; [] if
        all losses are divided by the number of objects."""
        late = []
        if not getattr(self.matcher, "normalizes_by_objects", False):
            late.append(
                f"losses are divided by what {type(self.matcher).__name__} counts at each stage"
            )
        if self.classification.has_normalizer:
            late.append("loss_ce is divided by the weights of the classes assigned")
        return late

    def weigh(self, normalizers):
        """Weights with which the losses of micro-batches add up to those of one big batch.

        Args:
            normalizers (list[Normalizers]): of k micro-batches of this worker. All workers must
                call this at the same time.

        Returns:
            dict[str, Tensor]: (k,) for each loss of :meth:`forward`, with masks or without.
        """
        matched = _weigh(torch.stack([x.matched for x in normalizers]), _average_over_workers)
        classes = matched
        if self.classification.has_normalizer:
            classes = _weigh(torch.stack([x.classes for x in normalizers]), _mean_over_workers)
        return _name_by_stage(
            {
                "loss_ce": classes.T,
                "loss_bbox": matched.T,
                "loss_giou": matched.T,
                "loss_mask": matched.T,
            }
        )

    @staticmethod
    def weigh_by_objects(batches, device):
        """:meth:`weigh`, as if all losses were divided by the number of objects.

        Args:
            batches (list[list[dict]]): k micro-batches of this worker, with "instances".
            device (torch.device): device for the exchange between workers.

        Returns:
            Tensor: (k,), for all losses alike.
        """
        counts = [float(sum(len(x["instances"]) for x in batch)) for batch in batches]
        # Made on the host and copied without a wait for the device.
        counts = torch.tensor(counts).to(device, non_blocking=True)
        return _weigh(counts, _average_over_workers)

    def box_losses(self, boxes, targets, assignment):
        """
        Returns:
            tuple[Tensor, Tensor]: each (S,), sums over the matched pairs of the L1 distance of
            corners, as fractions of the image's size, and of 1 - GIoU.
        """
        positive = assignment.positive
        target_boxes = assignment.gather(targets.boxes)
        # Background is its own target: no loss, no gradient, and no overflow in an unused area.
        matched = torch.where(positive[..., None], boxes, target_boxes)
        sizes = targets.image_sizes[:, None]
        l1 = (matched / sizes - target_boxes / sizes).abs().sum(dim=(1, 2, 3))
        # Chosen, not multiplied: the GIoU of a box without area with itself is NaN.
        giou = torch.where(positive, 1 - paired_giou(matched, target_boxes), 0.0).sum(dim=(1, 2))
        # The added term is 0, but NaN if any box is not finite, matched or not. It also connects
        # the boxes to the graph when a batch has no objects.
        return l1 + (boxes * 0).sum(dim=(1, 2, 3)), giou


def _average_over_workers(count):
    """Mean of `count` over the workers, at least 1."""
    return _mean_over_workers(count).clamp(min=1)


def _mean_over_workers(count):
    num_workers = comm.get_world_size()
    if num_workers == 1:
        return count
    count = count.clone()
    torch.distributed.all_reduce(count)
    return count / num_workers


def _weigh(counts, divisor):
    """(k, ...), the divisor of each of k counts, as a fraction of the divisor of their sum."""
    divisors = divisor(torch.cat([counts, counts.sum(0, keepdim=True)]))
    return divisors[:-1] / divisors[-1]


def _name_by_stage(losses):
    named = {}
    for name, values in losses.items():
        *earlier, last = values.unbind()
        named[name] = last
        named.update({f"{name}_{i}": value for i, value in enumerate(earlier)})
    return named

import torch
from detectron2.config import configurable
from torch import nn

from ..pooler import PyramidRoIAlign
from .build import build_mask_head

__all__ = ["MaskBranch", "dice_loss"]

_DICE_EPSILON = 1e-5


class MaskBranch(nn.Module):
    """Masks of the proposals of Sparse R-CNN, stage by stage, beside their boxes (QueryInst).

    In training, the masks of all stages are predicted for the proposals that are assigned to an
    object; in inference, those of the last stage for the detections.
    """

    @configurable
    def __init__(self, *, mask_heads, pooler):
        """
        Args:
            mask_heads (list[nn.Module]): of each stage with a loss, or a single one for all; see
                :mod:`sparsercnn.modeling.masks`.
            pooler (PyramidRoIAlign): of the RoI features.
        """
        super().__init__()
        self.pooler = pooler
        self.mask_head = nn.ModuleList(mask_heads)

    @classmethod
    def from_config(cls, cfg, input_shape):
        sparse = cfg.MODEL.SparseRCNN
        # Without losses on the earlier stages, nothing would train their heads.
        is_single = sparse.MASK.SHARED or not sparse.DEEP_SUPERVISION
        options = PyramidRoIAlign.from_config(cfg, input_shape)
        options["output_size"] = sparse.MASK.POOLER_RESOLUTION
        return {
            "mask_heads": [
                build_mask_head(cfg) for _ in range(1 if is_single else sparse.NUM_HEADS)
            ],
            "pooler": PyramidRoIAlign(**options),
        }

    def loss(self, pyramid, queries, boxes, targets, masks, assignment):
        """The dice loss of the proposals that are assigned to an object.

        Args:
            pyramid: what the pooler's `prepare` returns.
            queries: (S, B, N, C), see :meth:`IterativeHead.forward`.
            boxes: (S, B, N, 4), absolute xyxy, refined by the stages; no gradient flows into them.
            targets (Targets): the objects.
            masks (ObjectMasks): of the objects.
            assignment (Assignment): of the proposals to the objects.

        Returns:
            Tensor: (S,), sums over the assigned proposals.
        """
        S, B, N = assignment.target_index.shape
        place, is_positive, counts = _choose(assignment)
        images = place // N % B
        objects = assignment.target_index.flatten()[place].clamp(min=0)
        classes = targets.classes[images, objects]
        rois = boxes.detach().flatten(0, 2)[place]
        inputs = (
            queries.flatten(0, 2)[place],
            self.pooler.pool(pyramid, rois, images),
            classes,
        )
        by_stage = zip(*(x.split(counts) for x in inputs), strict=True)
        heads = [self._head_of(stage - S) for stage in range(S)]
        logits = [head(*of_stage) for head, of_stage in zip(heads, by_stage, strict=True)]
        logits = torch.cat([x.float() for x in logits])
        loss = dice_loss(logits, masks.crop(rois, images, objects, logits.shape[-1]))
        loss = torch.where(is_positive, loss, 0.0)
        return torch.stack([of_stage.sum() for of_stage in loss.split(counts)])

    def forward(self, pyramid, boxes, images, queries, classes, stage=-1):
        """The masks of detections.

        Args:
            pyramid: what the pooler's `prepare` returns.
            boxes: (R, 4), absolute xyxy.
            images: (R,), int64, in [0, B).
            queries: (R, C), of their proposals at `stage`.
            classes: (R,), int64, in [0, K).
            stage (int): counted from the last one, which is -1.

        Returns:
            Tensor: (R, 1, m, m), float32, probabilities over the areas of the boxes.
        """
        roi_features = self.pooler.pool(pyramid, boxes, images)
        return self.predict(queries, roi_features, classes, stage)

    def predict(self, queries, roi_features, classes, stage=-1):
        """As :meth:`forward`, from RoI features (R, C, r, r)."""
        logits = self._head_of(stage)(queries, roi_features, classes)
        return logits.float().sigmoid()[:, None]

    def _head_of(self, stage):
        """The head of a stage, counted from the last one, which is -1."""
        return self.mask_head[stage if len(self.mask_head) > 1 else 0]


def dice_loss(logits, targets):
    """1 - 2 sum(p t) / (sum(p^2) + sum(t^2)), p = sigmoid(logits) (V-Net, 3DV 2016, section 3).

    Args:
        logits: (R, m, m).
        targets: (R, m, m), 0 or 1.

    Returns:
        Tensor: (R,), in [0, 1].
    """
    p, t = logits.sigmoid().flatten(1), targets.flatten(1)
    union = (p * p).sum(1) + (t * t).sum(1)
    return 1 - 2 * (p * t).sum(1) / (union + _DICE_EPSILON)


def _choose(assignment):
    """Places in the flattened assignment (S * B * N) that hold its positives.

    Their number is known to the device alone, but how many there can be at most is known to the
    host. What is left of these places repeats the positives, so that norms see no other RoIs. Every
    stage has at least one place: in a batch without objects too, all workers wait for the gradients
    of each other's heads, and for the statistics of synchronised norms.

    Returns:
        tuple: places (R,), int64; whether a place holds a positive for the first time, (R,); number
        of places of each stage, list[int].
    """
    S = len(assignment.target_index)
    positive = assignment.positive.flatten(1)
    counts = [max(x, 1) for x in assignment.capacity or [positive.shape[1]] * S]
    # Sorted by stage: the positives, and then the others, both in their order.
    order = positive.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
    number = positive.sum(1)
    places, first = [], []
    for stage, count in enumerate(counts):
        slot = torch.arange(count, device=order.device)
        within = order[stage][slot % number[stage].clamp(min=1)]
        places.append(stage * positive.shape[1] + within)
        first.append(slot < number[stage])
    return torch.cat(places), torch.cat(first), counts

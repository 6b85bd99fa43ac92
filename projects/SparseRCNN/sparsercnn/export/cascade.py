"""The whole inference of Cascade (Mask) R-CNN as one module of tensors, for exporters.

Dimension letters in addition to those of :mod:`sparsercnn.structures`: R regions per image, D
detections per image, A anchors per position; H, W size of the batch.
"""

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads
from torch import nn
from torchvision.ops import nms

from ..errors import ExportError
from ..modeling.masks import CascadeMaskROIHeads
from .graph import clip, gather_boxes, normalize
from .modules import LevelwiseRoIAlign, exportable_copy
from .suppression import spread, suppress

__all__ = ["CascadeGraph"]


class CascadeGraph(nn.Module):
    """Detectron2's `GeneralizedRCNN` with an RPN and `CascadeROIHeads`, or this project's
    :class:`~sparsercnn.modeling.masks.CascadeMaskROIHeads`, from pixels to detections.
    """

    def __init__(self, model):
        """
        Args:
            model (GeneralizedRCNN): with its weights; not modified.

        Raises:
            ExportError: its proposals or heads are of another kind.
        """
        super().__init__()
        _require_supported(model)
        self.model = exportable_copy(model)
        heads = self.model.roi_heads
        heads.box_pooler = LevelwiseRoIAlign.of_detectron2(heads.box_pooler)
        self.outputs = ("boxes", "scores", "classes")
        if heads.mask_on:
            heads.mask_pooler = LevelwiseRoIAlign.of_detectron2(heads.mask_pooler)
            self.outputs += ("masks",)

    def forward(self, images, sizes):
        """
        Args:
            images, sizes: as in :meth:`~sparsercnn.export.graph.DetectorGraph.forward`.

        Returns:
            tuple: boxes (B, D, 4), scores (B, D) and classes (B, D) as there; with masks also

            * masks: (B, D, 28, 28), probabilities over the area of each box.
        """
        maps = self.model.backbone(normalize(self.model, images, sizes))
        regions, valid = self._propose(maps, sizes)
        boxes, scores = self._refine(maps, regions, sizes)
        boxes, scores, classes = self._select(boxes, torch.where(valid[..., None], scores, 0.0))
        if not self.model.roi_heads.mask_on:
            return boxes, scores, classes
        return boxes, scores, classes, self._masks(maps, boxes, classes)

    def _propose(self, maps, sizes):
        """The best regions (B, R, 4) of the RPN, and which of them are any (B, R)."""
        rpn = self.model.proposal_generator
        features = [maps[name] for name in rpn.in_features]
        logits_of_levels, deltas_of_levels = rpn.rpn_head(features)
        limit = rpn.pre_nms_topk[False]
        boxes, scores = [], []
        for level, feature in enumerate(features):
            logits = logits_of_levels[level].permute(0, 2, 3, 1).flatten(1)
            deltas = deltas_of_levels[level].permute(0, 2, 3, 1)  # (B, h, w, A * 4)
            deltas = deltas.reshape(logits.shape[0], -1, 4)
            # So many more that there are always enough; non-finite ones are left out below.
            logits = torch.cat([logits, logits.new_full((logits.shape[0], limit), -torch.inf)], 1)
            logits, index = logits.topk(limit)
            anchors = self._anchors(level, feature)
            index = index.clamp(max=anchors.shape[0] - 1)
            anchors, deltas = anchors[index], gather_boxes(deltas, index)
            boxes.append(_apply(rpn.box2box_transform, deltas, anchors))
            scores.append(logits)
        level = torch.arange(len(scores), device=logits.device).repeat_interleave(limit)
        boxes, scores = torch.cat(boxes, 1), torch.cat(scores, 1)
        valid = boxes.isfinite().all(-1) & scores.isfinite()
        boxes = clip(torch.where(valid[..., None], boxes, 0.0), sizes)
        valid = valid & ((boxes[..., 2:] - boxes[..., :2]) > rpn.min_box_size).all(-1)
        scores, order = torch.where(valid, scores, -torch.inf).topk(scores.shape[1])
        boxes, level = gather_boxes(boxes, order), level[order]
        keep = suppress(boxes, level, len(features), rpn.nms_thresh)
        scores = torch.where(keep, scores, -torch.inf)
        scores, order = scores.topk(min(rpn.post_nms_topk[False], scores.shape[1]))
        return gather_boxes(boxes, order), scores > -torch.inf

    def _anchors(self, level, feature):
        """(h * w * A, 4), absolute xyxy, in the order of the RPN's logits."""
        generator = self.model.proposal_generator.anchor_generator
        stride = generator.strides[level]
        y, x = (
            (torch.arange(size, device=feature.device) + generator.offset) * stride
            for size in feature.shape[2:]
        )
        of_position = list(generator.cell_anchors.buffers())[level]
        shift_x = x[None, :, None] + torch.zeros_like(y)[:, None, None]
        shift_y = y[:, None, None] + torch.zeros_like(x)[None, :, None]
        shifts = torch.cat([shift_x, shift_y, shift_x, shift_y], dim=2)
        return (shifts[:, :, None] + of_position).view(-1, 4)

    def _refine(self, maps, boxes, sizes):
        """Boxes (B, R, 4) and scores (B, R, K) after all stages."""
        heads = self.model.roi_heads
        features = [maps[name] for name in heads.box_in_features]
        B, R, _ = boxes.shape
        logits = []
        for head, predictor in zip(heads.box_head, heads.box_predictor, strict=True):
            of_stage, deltas = predictor(head(heads.box_pooler(features, boxes)))
            logits.append(of_stage.view(B, R, -1))
            boxes = _apply(predictor.box2box_transform, deltas.view(B, R, 4), boxes)
            finite = boxes.isfinite().all(-1, keepdim=True)
            boxes = clip(torch.where(finite, boxes, 0.0), sizes)
        logits = torch.stack(logits)
        if isinstance(heads, CascadeMaskROIHeads):
            scores = _probabilities(logits.mean(0), predictor)
        else:
            scores = _probabilities(logits, predictor).mean(0)
        finite = finite & scores.isfinite().all(-1, keepdim=True)
        return boxes, torch.where(finite, scores, 0.0)[..., :-1]

    def _select(self, boxes, scores):
        """The best detections of all regions and classes, after the threshold and NMS."""
        predictor = self.model.roi_heads.box_predictor[-1]
        B, R, K = scores.shape
        good = scores > predictor.test_score_thresh
        # As floats: TensorRT finds non-zero elements among these alone.
        image, region, classes = good.float().nonzero().unbind(1)
        apart = spread(boxes[image, region], image, classes, K)
        score = scores[image, region, classes]
        kept = nms(apart, score, predictor.test_nms_thresh)
        place = ((image * R + region) * K + classes).index_select(0, kept)
        flat = scores.new_zeros(B * R * K).index_put((place,), score.index_select(0, kept))
        scores, index = flat.view(B, R * K).topk(min(predictor.test_topk_per_image, R * K))
        region = torch.div(index, K, rounding_mode="floor")
        return gather_boxes(boxes, region), scores, index % K

    def _masks(self, maps, boxes, classes):
        """(B, D, 28, 28), of the class of each detection."""
        heads = self.model.roi_heads
        pooled = heads.mask_pooler([maps[name] for name in heads.mask_in_features], boxes)
        mask_heads = heads.mask_head
        if not isinstance(heads, CascadeMaskROIHeads):
            mask_heads = [mask_heads]
        of_stages = []
        for head in mask_heads:
            logits = head.layers(pooled)
            if logits.shape[1] > 1:
                index = classes.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
                logits = logits.gather(1, index)
            of_stages.append(logits.sigmoid())
        masks = torch.stack(of_stages).mean(0)
        return masks.view(*classes.shape, *masks.shape[2:])


def _apply(transform, deltas, boxes):
    """(B, R, 4), what detectron2's `Box2BoxTransform` makes of deltas and boxes of this shape."""
    moved = transform.apply_deltas(deltas.flatten(0, 1), boxes.flatten(0, 1))
    return moved.view(boxes.shape)


def _probabilities(logits, predictor):
    # Newer detectron2 has classifiers without softmax.
    is_sigmoid = getattr(predictor, "use_sigmoid_ce", False)
    return logits.sigmoid() if is_sigmoid else logits.softmax(-1)


def _require_supported(model):
    heads, rpn = model.roi_heads, model.proposal_generator
    problems = []
    if not isinstance(heads, CascadeROIHeads):
        problems.append(f"MODEL.ROI_HEADS.NAME {type(heads).__name__}, not a cascade")
    else:
        if heads.keypoint_on:
            problems.append("MODEL.KEYPOINT_ON")
        if heads.box_predictor[-1].test_topk_per_image < 1:
            problems.append("TEST.DETECTIONS_PER_IMAGE without a limit")
        if heads.mask_on and heads.mask_pooler is None:
            problems.append("MODEL.ROI_MASK_HEAD.POOLER_TYPE ''")
        poolers = [heads.box_pooler, *([heads.mask_pooler] if heads.mask_on else [])]
        if any(not isinstance(x, ROIAlign) for p in poolers if p for x in p.level_poolers):
            problems.append("a POOLER_TYPE other than ROIAlign and ROIAlignV2")
    if type(rpn) is not RPN or type(rpn.anchor_generator) is not DefaultAnchorGenerator:
        problems.append(
            f"proposals by {type(rpn).__name__}, not by RPN with DefaultAnchorGenerator"
        )
    if problems:
        raise ExportError(f"This model cannot be exported: it has {'; '.join(problems)}.")

"""The whole inference of a model as one module of tensors, for exporters.

Dimension letters in addition to those of :mod:`sparsercnn.structures`: D detections per image;
H, W size of the batch; h, w size of a feature map.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..modeling.backbones import TimmBackbone, ViT
from ..modeling.necks.attention_fpn import AttentionFPN
from .modules import exportable_copy
from .suppression import suppress

__all__ = ["DetectorGraph", "SegmentorGraph", "normalize"]


class DetectorGraph(nn.Module):
    """:class:`~sparsercnn.modeling.SparseRCNN` from pixels to detections.

    Output names are in `outputs`, the order is that of the results of :meth:`forward`.
    """

    def __init__(self, model):
        """
        Args:
            model (SparseRCNN): with its weights; not modified.
        """
        super().__init__()
        self.model = exportable_copy(model)
        self.outputs = ("boxes", "scores", "classes")
        if model.mask_branch is not None:
            self.outputs += ("masks",)

    def forward(self, images, sizes):
        """
        Args:
            images: (B, C, H, W), 0 to 255, in the model's channel order. Smaller images are at the
                top left; what is beside and below them is ignored.
            sizes: (B, 2), int64, height and width of each image in the batch.

        Returns:
            tuple: of each image the detections, best first. Those that the thresholds dropped are
            at the end, with a score of 0.

            * boxes: (B, D, 4), absolute xyxy in pixels of `images`, within the image;
            * scores: (B, D);
            * classes: (B, D), int64;
            * masks, if the model has them: (B, D, m, m), probabilities over the area of each box.
        """
        model = self.model
        maps = model.backbone(normalize(model, images, sizes))
        features = [maps[name] for name in model.in_features]
        boxes, proposal_features = model.proposals(features, _corners(sizes))
        class_logits, boxes, queries = model.head(features, boxes, proposal_features)
        boxes, scores, classes, proposals = self._select(class_logits[-1], boxes[-1], sizes)
        if model.mask_branch is None:
            return boxes, scores, classes
        queries = queries[-1].gather(1, proposals[..., None].expand(-1, -1, queries.shape[-1]))
        roi_features = model.mask_branch.pooler(features, boxes)
        masks = model.mask_branch.predict(queries.flatten(0, 1), roi_features, classes.flatten())
        return boxes, scores, classes, masks.view(*classes.shape, *masks.shape[2:])

    def _select(self, class_logits, boxes, sizes):
        """The detections of :meth:`SparseRCNN.inference`, in tensors of fixed size, and the places
        of their proposals (B, D)."""
        model = self.model
        N = boxes.shape[1]
        scores = model.classification.scores(class_logits)
        K = scores.shape[-1]
        finite = boxes.isfinite().all(-1, keepdim=True)
        scores = torch.where(finite & scores.isfinite(), scores, -1.0)
        boxes = torch.where(finite, boxes, 0.0)
        scores, index = scores.flatten(1).topk(N)
        classes, proposals = index % K, torch.div(index, K, rounding_mode="floor")
        boxes = gather_boxes(boxes, proposals)
        keep = scores >= model.score_thresh
        if model.nms_thresh > 0:
            keep = keep & suppress(boxes, classes, K, model.nms_thresh)
        scores = torch.where(keep, scores, 0.0)
        scores, order = scores.clamp(min=0).topk(min(model.max_detections, N))
        boxes = clip(gather_boxes(boxes, order), sizes)
        return boxes, scores, classes.gather(1, order), proposals.gather(1, order)


class SegmentorGraph(nn.Module):
    """A `SemanticSegmentor` with a :class:`~sparsercnn.modeling.segmentation.DANetHead`."""

    outputs = ("labels", "logits")

    def __init__(self, model):
        """
        Args:
            model (SemanticSegmentor): with its weights; not modified.
        """
        super().__init__()
        self.model = exportable_copy(model)

    def forward(self, images, sizes):
        """
        Args:
            images, sizes: as in :meth:`DetectorGraph.forward`.

        Returns:
            tuple:

            * labels: (B, H, W), int64, the class of each pixel;
            * logits: (B, K, h, w), from which the labels are interpolated; for results of another
              size.
        """
        head = self.model.sem_seg_head
        maps = self.model.backbone(normalize(self.model, images, sizes))
        feature = maps[head.in_feature]
        logits = head.predictor(head.position_branch(feature) + head.channel_branch(feature))
        H, W = images.shape[2:]
        upsampled = F.interpolate(
            logits, scale_factor=float(head.stride), mode="bilinear", align_corners=False
        )
        # A slice would make the exporter ask whether the sides are multiples of the stride.
        row, column = (torch.arange(size, device=logits.device) for size in (H, W))
        return upsampled.argmax(1).index_select(1, row).index_select(2, column), logits


def normalize(model, images, sizes):
    """What a model does before its backbone: normalise, and pad with zeros.

    Args:
        model (nn.Module): with `backbone`, `pixel_mean` and `pixel_std`.
        images: (B, C, H, W).
        sizes: (B, 2), height and width of each image.

    Returns:
        Tensor: (B, C, H', W'), float32, of sides that the backbone's divisor divides.
    """
    H, W = images.shape[2:]
    x = (images.float() - model.pixel_mean) / model.pixel_std
    row = torch.arange(H, device=x.device)[:, None]
    column = torch.arange(W, device=x.device)
    height, width = (size[:, None, None] for size in sizes.unbind(1))
    x = torch.where(((row < height) & (column < width))[:, None], x, 0.0)
    divisor = max(model.backbone.size_divisibility, 1)
    if divisor == 1:
        return x
    # As numbers of their own, or the exporter would have to prove that sides derived from ceilings
    # are even, and half of them, and so on.
    least = smallest_side(model) // divisor + 1
    rows, columns = (_ceil_div(size, divisor, least) for size in (H, W))
    return F.pad(x, (0, columns * divisor - W, 0, rows * divisor - H))


def clip(boxes, sizes):
    """Boxes (B, D, 4), xyxy, within images of the height and width in `sizes` (B, 2)."""
    return torch.minimum(boxes.clamp(min=0), _corners(sizes)[:, None])


def gather_boxes(boxes, index):
    """(B, D, 4), the boxes (B, N, 4) at `index` (B, D)."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


def smallest_side(model):
    """int: the least height and width that a model's graph takes; 1, unless its neck has windows
    that must not be larger than a map, or its convolutions are such that exporters take maps of one
    row or column for another kind of map."""
    backbone = model.backbone
    bottom_up = getattr(backbone, "bottom_up", backbone)
    if isinstance(backbone, AttentionFPN) or isinstance(bottom_up, TimmBackbone | ViT):
        return backbone.size_divisibility + 1
    if backbone.size_divisibility <= 1:
        return max(shape.stride for shape in backbone.output_shape().values()) + 1
    return 1


def _ceil_div(size, divisor, least):
    number = torch.div(
        torch.scalar_tensor(size, dtype=torch.int64) + (divisor - 1), divisor, rounding_mode="floor"
    ).item()
    torch._check(number >= least)
    return number


def _corners(sizes):
    """(B, 4), (w, h, w, h), float32, of `sizes` (B, 2), (h, w)."""
    return sizes.flip(1).repeat(1, 2).float()

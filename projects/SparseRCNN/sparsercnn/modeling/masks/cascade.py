"""RoI heads of Cascade Mask R-CNN as in mmdetection, with a mask head for each stage.

Cascade R-CNN (Cai and Vasconcelos, CVPR 2018); masks as in its extension (TPAMI 2019), section 6.
"""

import torch
from detectron2.config import configurable
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, select_foreground_proposals
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.utils.events import get_event_storage
from torch import nn

from ...errors import ConfigError

__all__ = ["CascadeMaskROIHeads"]


@ROI_HEADS_REGISTRY.register()
class CascadeMaskROIHeads(CascadeROIHeads):
    """Detectron2's cascade with the training and inference of mmdetection. The differences are:

    * Each stage has a mask head, trained on the foreground of that stage; inference averages the
      mask probabilities of all stages.
    * Each stage has a loss weight; gradients of RoI features are not divided by the number of
      stages.
    * Each stage samples its RoIs anew, including ground truth.
    * Inference averages the class logits of the stages, not their probabilities.
    """

    @configurable
    def __init__(self, *, stage_loss_weights, mask_head=None, **kwargs):
        """
        Args:
            stage_loss_weights (list[float]): factor on all losses of a stage, one per stage.
            mask_head (list[nn.Module]): mask head of each stage; None: no masks.
            kwargs: see :class:`detectron2.modeling.roi_heads.CascadeROIHeads`.

        Raises:
            ConfigError: the number of weights is not the number of stages.
        """
        if mask_head is not None:
            mask_head = nn.ModuleList(mask_head)
        super().__init__(mask_head=mask_head, **kwargs)
        if len(stage_loss_weights) != self.num_cascade_stages:
            raise ConfigError(
                "MODEL.CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS has "
                f"{len(stage_loss_weights)} weights for the {self.num_cascade_stages} stages of "
                "MODEL.ROI_BOX_CASCADE_HEAD.IOUS; give one per stage."
            )
        self.stage_loss_weights = tuple(stage_loss_weights)

    @classmethod
    def from_config(cls, cfg, input_shape):
        result = super().from_config(cfg, input_shape)
        result["stage_loss_weights"] = cfg.MODEL.CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS
        return result

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        if not cfg.MODEL.MASK_ON:
            return {}
        if not cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE:
            raise ConfigError(
                "MODEL.ROI_MASK_HEAD.POOLER_TYPE is empty; CascadeMaskROIHeads needs one, such as "
                "ROIAlignV2."
            )
        build = super()._init_mask_head
        stages = [build(cfg, input_shape) for _ in cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS]
        return {**stages[0], "mask_head": [stage["mask_head"] for stage in stages]}

    def forward(self, images, features, proposals, targets=None):
        """See :meth:`detectron2.modeling.roi_heads.ROIHeads.forward`.

        Names of losses, including those of masks, end in ``_stage0``, ``_stage1``, ...
        """
        if not self.training:
            return super().forward(images, features, proposals, targets)
        box_features = _as_float32(features, self.box_in_features)
        image_sizes = [x.image_size for x in proposals]
        losses, sampled = {}, []
        for stage, weight in enumerate(self.stage_loss_weights):
            predictor = self.box_predictor[stage]
            with get_event_storage().name_scope(f"stage{stage}"):
                sampled.append(self._sample(proposals, targets, stage))
                predictions = self._run_stage(box_features, sampled[-1], stage)
                of_stage = predictor.losses(predictions, sampled[-1])
                of_stage.update(self._mask_losses(features, sampled[-1], stage))
            losses.update({f"{k}_stage{stage}": weight * v for k, v in of_stage.items()})
            boxes = predictor.predict_boxes(predictions, sampled[-1])
            proposals = self._create_proposals_from_boxes(boxes, image_sizes)
        losses.update(self._forward_keypoint(features, sampled[0]))
        return sampled[0], losses

    def _sample(self, proposals, targets, stage):
        """Add the ground truth, match with the threshold of the stage, and sample."""
        for x in proposals:
            if not x.has("objectness_logits"):  # refined boxes lack them, ground truth has them
                x.objectness_logits = x.proposal_boxes.tensor.new_zeros(len(x))
        first = self.proposal_matcher
        self.proposal_matcher = self.proposal_matchers[stage]
        try:
            return self.label_and_sample_proposals(proposals, targets)
        finally:
            self.proposal_matcher = first

    def _run_stage(self, features, proposals, stage):
        pooled = self.box_pooler(features, [x.proposal_boxes for x in proposals])
        return self.box_predictor[stage](self.box_head[stage](pooled))

    def _mask_losses(self, features, proposals, stage):
        if not self.mask_on:
            return {}
        foreground, _ = select_foreground_proposals(proposals, self.num_classes)
        pooled = self._pool_masks(features, [x.proposal_boxes for x in foreground])
        return self.mask_head[stage](pooled, foreground)

    def _pool_masks(self, features, boxes):
        return self.mask_pooler(_as_float32(features, self.mask_in_features), boxes)

    def _forward_box(self, features, proposals, targets=None):
        """Detections of each image, in inference."""
        features = _as_float32(features, self.box_in_features)
        image_sizes = [x.image_size for x in proposals]
        logits = []
        for stage, predictor in enumerate(self.box_predictor):
            of_stage, deltas = self._run_stage(features, proposals, stage)
            logits.append(of_stage)
            boxes = predictor.predict_boxes((of_stage, deltas), proposals)
            proposals = self._create_proposals_from_boxes(boxes, image_sizes)
        scores = predictor.predict_probs((torch.stack(logits).mean(0), deltas), proposals)
        detections, _ = fast_rcnn_inference(
            boxes,
            scores,
            image_sizes,
            predictor.test_score_thresh,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )
        return detections

    def _forward_mask(self, features, instances):
        """Add `pred_masks`, probabilities, to the detections of each image, in inference."""
        if not self.mask_on:
            return instances
        pooled = self._pool_masks(features, [x.pred_boxes for x in instances])
        of_stages = []
        for head in self.mask_head:
            instances = head(pooled, instances)
            of_stages.append([x.pred_masks for x in instances])
        for of_image, masks in zip(instances, zip(*of_stages, strict=True), strict=True):
            of_image.pred_masks = torch.stack(masks).mean(0)
        return instances


def _as_float32(features, names):
    """The maps to pool from: detectron2's poolers round boxes to the dtype of the maps."""
    return [features[name].float() for name in names]

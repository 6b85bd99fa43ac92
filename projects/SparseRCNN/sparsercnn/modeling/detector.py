"""Sparse R-CNN: End-to-End Object Detection with Learnable Proposals (CVPR 2021)."""

import logging
import math
from operator import attrgetter

import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.logger import log_first_n
from torch import nn

from ..config import detections_per_image
from ..structures import Targets
from .classification import FocalClassification, build_classification
from .criterion import SetCriterion
from .head import IterativeHead
from .proposals import build_proposals

__all__ = ["SparseRCNN"]


@META_ARCH_REGISTRY.register()
class SparseRCNN(nn.Module):
    """Images -> pyramid -> proposals -> stages -> losses or instances."""

    @configurable
    def __init__(
        self,
        *,
        backbone,
        proposals,
        head,
        criterion,
        in_features,
        pixel_mean,
        pixel_std,
        classification=None,
        deep_supervision=True,
        score_thresh=0.0,
        nms_thresh=0.0,
        max_detections=100,
        input_format=None,
        size_bucket=0,
        test_size_bucket=0,
    ):
        """
        Args:
            backbone (Backbone): computes the feature maps named in `in_features`.
            proposals (nn.Module): see :mod:`sparsercnn.modeling.proposals`.
            head (IterativeHead): the stages.
            criterion (SetCriterion): the losses.
            in_features (list[str]): names of the pyramid's maps, finest first.
            pixel_mean, pixel_std (list[float]): per channel, in the order of `input_format`.
            classification (FocalClassification | SoftmaxClassification): converts logits to
                scores; None: FocalClassification().
            deep_supervision (bool): losses on all stages; False: on the last only.
            score_thresh (float): detections below this score are dropped.
            nms_thresh (float): IoU threshold of class-wise NMS; 0: none.
            max_detections (int): detections kept per image.
            input_format (str): channel order of the input, for callers that read images.
            size_bucket (int): in training, batches are padded to multiples of this and of the
                backbone's own divisor; 0: of that alone.
            test_size_bucket (int): the same in inference.
        """
        super().__init__()
        self.backbone = backbone
        self.proposals = proposals
        self.head = head
        self.criterion = criterion
        self.in_features = in_features
        self.classification = classification or FocalClassification()
        self.deep_supervision = deep_supervision
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.max_detections = max_detections
        self.input_format = input_format
        self.size_bucket = size_bucket
        self.test_size_bucket = test_size_bucket
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        # The published checkpoints hold the proposals' weights at the top level.
        self._register_state_dict_hook(_lift_proposals)
        self._register_load_state_dict_pre_hook(_lower_proposals, with_module=True)

    @classmethod
    def from_config(cls, cfg):
        sparse = cfg.MODEL.SparseRCNN
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposals": build_proposals(cfg),
            "head": IterativeHead(cfg, backbone.output_shape()),
            "criterion": SetCriterion(cfg),
            "in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "classification": build_classification(cfg),
            "deep_supervision": sparse.DEEP_SUPERVISION,
            "score_thresh": sparse.SCORE_THRESH_TEST,
            "nms_thresh": sparse.NMS_THRESH_TEST,
            "max_detections": detections_per_image(cfg),
            "input_format": cfg.INPUT.FORMAT,
            "size_bucket": cfg.INPUT.SIZE_BUCKET,
            "test_size_bucket": cfg.TEST.SIZE_BUCKET,
        }

    # Where the state dict has their weights, and fvcore looks for them if a shape does not fit.
    init_proposal_boxes = property(attrgetter("proposals.init_proposal_boxes"))
    init_proposal_features = property(attrgetter("proposals.init_proposal_features"))
    expert_weights = property(attrgetter("proposals.expert_weights"))

    @property
    def device(self):
        return self.pixel_mean.device

    def forward(
        self,
        batched_inputs: list[dict],
        do_postprocess: bool = True,
        all_stages: bool = False,
    ) -> dict | list:
        """
        Args:
            batched_inputs (list[dict]): one per image, with

                * image: (3, H, W), in the channel order of `input_format`, 0 to 255;
                * instances (training): `gt_boxes`, absolute xyxy, and `gt_classes`;
                * height, width (inference, optional): image size to scale detections to.

            do_postprocess (bool): scale detections to `height` and `width`.
            all_stages (bool): in inference, give those of each stage, as if it were the last.

        Returns:
            dict[str, Tensor]: in training, the weighted losses, see :class:`SetCriterion`.
            list: in inference, per image ``{"instances": Instances}`` with `pred_boxes`, `scores`
            and `pred_classes`, best first. Without post-processing, bare Instances in pixels of
            the network's input, not limited to `max_detections`: callers that merge several
            results of an image apply the limit after merging. With `all_stages`, per image a list
            of these, one per stage.
        """
        images, image_sizes = self.preprocess_images(batched_inputs)
        feature_maps = self.backbone(images.tensor)
        features = [feature_maps[name] for name in self.in_features]
        boxes, proposal_features = self.proposals(features, image_sizes)
        class_logits, boxes = self.head(features, boxes, proposal_features)

        if self.training:
            targets = Targets.from_instances([x["instances"] for x in batched_inputs], self.device)
            if not self.deep_supervision:
                class_logits, boxes = class_logits[-1:], boxes[-1:]
            return self.criterion(class_logits, boxes, targets)

        first = 0 if all_stages else len(boxes) - 1
        stages = [
            self._results(*stage, batched_inputs, images.image_sizes, do_postprocess)
            for stage in zip(class_logits[first:], boxes[first:], strict=True)
        ]
        return [list(image) for image in zip(*stages, strict=True)] if all_stages else stages[0]

    def _results(self, class_logits, boxes, batched_inputs, image_sizes, do_postprocess):
        results = self.inference(class_logits, boxes, image_sizes, limited=do_postprocess)
        if not do_postprocess:
            return results
        return [
            {
                "instances": detector_postprocess(
                    result, x.get("height", size[0]), x.get("width", size[1])
                )
            }
            for result, x, size in zip(results, batched_inputs, image_sizes, strict=True)
        ]

    def preprocess_images(self, batched_inputs):
        """Normalise the images and pad them to one size.

        Returns:
            tuple: ImageList, and (B, 4), (w, h, w, h) in pixels of each image before padding.
        """
        images = [x["image"].to(self.device, non_blocking=True) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        bucket = self.size_bucket if self.training else self.test_size_bucket
        divisor = math.lcm(max(self.backbone.size_divisibility, 1), max(bucket, 1))
        images = ImageList.from_tensors(images, divisor)
        sizes = torch.tensor([[w, h, w, h] for h, w in images.image_sizes], dtype=torch.float32)
        return images, sizes.to(self.device, non_blocking=True)

    def inference(self, class_logits, boxes, image_sizes, limited=True):
        """Turn the last stage's output into detections (Sparse R-CNN, section 3.3: no NMS).

        Args:
            class_logits: (B, N, K), or K + 1 with the softmax.
            boxes: (B, N, 4), absolute xyxy.
            image_sizes (list[tuple[int, int]]): (h, w) of each image.
            limited (bool): keep at most `max_detections` per image; False: at most N.

        Returns:
            list[Instances]: per image, the best N of the N x K scores, best first, after the
            thresholds and `max_detections` are applied.
        """
        num_proposals = boxes.shape[1]
        limit = self.max_detections if limited else num_proposals
        scores = _drop_non_finite(self.classification.scores(class_logits.float()), boxes)
        num_classes = scores.shape[-1]
        scores, index = scores.flatten(1).topk(num_proposals)
        proposal, classes = index // num_classes, index % num_classes
        boxes = boxes.gather(1, proposal[..., None].expand(-1, -1, 4))
        return [
            self._select(*detections, image_size, limit)
            for *detections, image_size in zip(boxes, scores, classes, image_sizes, strict=True)
        ]

    def _select(self, boxes, scores, classes, image_size, limit):
        keep = scores >= self.score_thresh
        boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
        if self.nms_thresh > 0:
            keep = batched_nms(boxes, scores, classes, self.nms_thresh)
            boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
        result = Instances(image_size)
        result.pred_boxes = Boxes(boxes[:limit])
        result.scores = scores[:limit]
        result.pred_classes = classes[:limit]
        return result


def _drop_non_finite(scores, boxes):
    """The scores (B, N, K), replaced by -1 where the score or its box is not finite."""
    finite = boxes.isfinite().all(-1, keepdim=True) & scores.isfinite()
    if not finite.all():
        log_first_n(
            logging.WARNING,
            "Detections with non-finite scores or boxes were dropped: the weights are broken or "
            "did not fit the model, or half precision overflowed. Check MODEL.WEIGHTS.",
            key="message",
        )
    return torch.where(finite, scores, -1.0)


def _lift_proposals(module, state_dict, prefix, local_metadata):
    for name in list(state_dict):
        if name.startswith(prefix + "proposals."):
            state_dict[prefix + name[len(prefix) + len("proposals.") :]] = state_dict.pop(name)


def _lower_proposals(module, state_dict, prefix, *_):
    for name in module.proposals.state_dict():
        if prefix + name in state_dict:
            state_dict[prefix + "proposals." + name] = state_dict.pop(prefix + name)

"""Sparse R-CNN: End-to-End Object Detection with Learnable Proposals (CVPR 2021)."""

import logging
import math
from functools import partial
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
from .masks import MaskBranch, ObjectMasks
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
        mask_branch=None,
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
            mask_branch (MaskBranch): predicts masks; None: boxes alone.
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
        self.mask_branch = mask_branch
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
        input_shape = backbone.output_shape()
        return {
            "backbone": backbone,
            "proposals": build_proposals(cfg),
            "head": IterativeHead(cfg, input_shape),
            "criterion": SetCriterion(cfg),
            # The last one to be built: with a seed, the other weights are those without masks.
            "mask_branch": MaskBranch(cfg, input_shape) if cfg.MODEL.MASK_ON else None,
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

    # Where the state dict has their weights: detectron2's own DetectionCheckpointer looks for the
    # owner of a weight whose shape does not fit by its name there.
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
                * instances (training): `gt_boxes`, absolute xyxy, `gt_classes` and, for a model
                  with masks, `gt_masks`;
                * height, width (inference, optional): image size to scale detections to.

            do_postprocess (bool): scale detections to `height` and `width`.
            all_stages (bool): in inference, give those of each stage, as if it were the last.

        Returns:
            dict[str, Tensor]: in training, the weighted losses, see :class:`SetCriterion`.
            list: in inference, per image ``{"instances": Instances}`` with `pred_boxes`, `scores`,
            `pred_classes` and, with masks, `pred_masks`, (D, height, width), bool, best first.
            Without post-processing, bare Instances in pixels of the network's input, not limited to
            `max_detections`: callers that merge several results of an image apply the limit after
            merging; `pred_masks` are then (D, 1, m, m), probabilities over the boxes, which are
            clipped to the image. With `all_stages`, per image a list of these, one per stage.
        """
        images, image_sizes = self.preprocess_images(batched_inputs)
        feature_maps = self.backbone(images.tensor)
        features = [feature_maps[name] for name in self.in_features]
        boxes, proposal_features = self.proposals(features, image_sizes)
        if self.mask_branch is not None:  # one form of the maps serves both poolers
            features = self.head.box_pooler.prepare(features)
        class_logits, boxes, queries = self.head(features, boxes, proposal_features)

        if self.training:
            return self._losses(batched_inputs, features, class_logits, boxes, queries)

        num_stages = len(boxes)
        stages = range(num_stages) if all_stages else [num_stages - 1]
        results = []
        for stage in stages:
            found = self.inference(
                class_logits[stage],
                boxes[stage],
                images.image_sizes,
                limited=do_postprocess,
                with_proposals=self.mask_branch is not None,
            )
            if self.mask_branch is not None:
                self._add_masks(found, features, queries[stage], stage - num_stages)
            results.append(_postprocess(found, batched_inputs) if do_postprocess else found)
        return [list(image) for image in zip(*results, strict=True)] if all_stages else results[0]

    def _losses(self, batched_inputs, pyramid, class_logits, boxes, queries):
        instances = [x["instances"] for x in batched_inputs]
        targets = Targets.from_instances(instances, self.device)
        first = 0 if self.deep_supervision else len(boxes) - 1
        class_logits, boxes = class_logits[first:], boxes[first:]
        mask_loss = None
        if self.mask_branch is not None:
            masks = ObjectMasks.from_instances(instances, self.device)
            mask_loss = partial(
                self.mask_branch.loss, pyramid, queries[first:], boxes, targets, masks
            )
        return self.criterion(class_logits, boxes, targets, mask_loss)

    def _add_masks(self, results, pyramid, queries, stage):
        """Add `pred_masks` to the detections of each image, from `queries` (B, N, C)."""
        counts = [len(x) for x in results]
        for x in results:
            x.pred_boxes.clip(x.image_size)  # as post-processing will; masks are over what is left
        proposals = torch.cat([x.proposals for x in results])
        images = torch.arange(len(results)).repeat_interleave(torch.tensor(counts))
        images = images.to(proposals.device, non_blocking=True)
        masks = self.mask_branch(
            pyramid,
            torch.cat([x.pred_boxes.tensor for x in results]),
            images,
            queries[images, proposals],
            torch.cat([x.pred_classes for x in results]),
            stage,
        )
        for x, of_image in zip(results, masks.split(counts), strict=True):
            x.remove("proposals")
            x.pred_masks = of_image

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

    def inference(self, class_logits, boxes, image_sizes, limited=True, with_proposals=False):
        """Turn the last stage's output into detections (Sparse R-CNN, section 3.3: no NMS).

        Args:
            class_logits: (B, N, K), or K + 1 with the softmax.
            boxes: (B, N, 4), absolute xyxy.
            image_sizes (list[tuple[int, int]]): (h, w) of each image.
            limited (bool): keep at most `max_detections` per image; False: at most N.
            with_proposals (bool): add `proposals`, (D,), the place in [0, N) of each detection's
                proposal.

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
        results = []
        for i, image_size in enumerate(image_sizes):
            keep = self._select(boxes[i], scores[i], classes[i])[:limit]
            result = Instances(image_size)
            result.pred_boxes = Boxes(boxes[i][keep])
            result.scores = scores[i][keep]
            result.pred_classes = classes[i][keep]
            if with_proposals:
                result.proposals = proposal[i][keep]
            results.append(result)
        return results

    def _select(self, boxes, scores, classes):
        """(D,), the places of the detections that the thresholds leave, best first."""
        keep = (scores >= self.score_thresh).nonzero().squeeze(1)
        if self.nms_thresh > 0:
            kept = batched_nms(boxes[keep], scores[keep], classes[keep], self.nms_thresh)
            keep = keep[kept]
        return keep


def _postprocess(results, batched_inputs):
    """The results (list[Instances]) in the size that each input asks for."""
    scaled = []
    for result, x in zip(results, batched_inputs, strict=True):
        height, width = result.image_size
        size = x.get("height", height), x.get("width", width)
        scaled.append({"instances": detector_postprocess(result, *size)})
    return scaled


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

"""Detectors of other libraries with the interface of detectron2's, to compare with.

Their weights are random and nothing is downloaded. Their images have the size of the input: they do
not resize them.
"""

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import box_convert

__all__ = ["PEERS", "DetrPeer", "FasterRCNNPeer"]

_NUM_CLASSES = 91  # of COCO's category ids, as in both published models
# Of RGB from 0 to 1.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FasterRCNNPeer(nn.Module):
    """torchvision's `fasterrcnn_resnet50_fpn` as it is when it is fine-tuned: batch norms and the
    first two of the ResNet's five stages are frozen.
    """

    @staticmethod
    def require():
        """Nothing that this project does not need itself."""

    def __init__(self, size):
        """
        Args:
            size (tuple[int, int]): height and width of the images.
        """
        super().__init__()
        # fasterrcnn_resnet50_fpn freezes nothing without the weights that it would download.
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
        self.detector = FasterRCNN(backbone, _NUM_CLASSES, min_size=min(size), max_size=max(size))

    def forward(self, batched_inputs):
        """Losses (dict) in training, a list of detections (dict) otherwise."""
        images = [x["image"] / 255 for x in batched_inputs]
        if not self.training:
            return self.detector(images)
        instances = [x["instances"] for x in batched_inputs]
        targets = [{"boxes": x.gt_boxes.tensor, "labels": x.gt_classes + 1} for x in instances]
        return self.detector(images, targets)


class DetrPeer(nn.Module):
    """The DETR R50 of transformers."""

    @staticmethod
    def require():
        """Raises ImportError if transformers is not installed."""
        from transformers import DetrForObjectDetection  # noqa: F401

    def __init__(self, size):
        """
        Args:
            size (tuple[int, int]): unused, since it takes any.
        """
        from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

        super().__init__()
        config = DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=ResNetConfig(out_features=["stage4"]),
            num_labels=_NUM_CLASSES,
            auxiliary_loss=True,  # as in the paper
        )
        self.detector = DetrForObjectDetection(config)
        self.register_buffer("mean", torch.tensor(_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(-1, 1, 1), persistent=False)

    def forward(self, batched_inputs):
        """Losses (dict) in training, a list of detections (dict) otherwise."""
        images = [(x["image"] / 255 - self.mean) / self.std for x in batched_inputs]
        images = torch.stack(images)  # of one size, which needs no mask
        if self.training:
            labels = [_detr_labels(x["instances"]) for x in batched_inputs]
            return {"loss": self.detector(pixel_values=images, labels=labels).loss}
        output = self.detector(pixel_values=images)
        height, width = images.shape[-2:]
        boxes = box_convert(output.pred_boxes, "cxcywh", "xyxy")
        boxes = torch.stack([boxes[..., 0::2] * width, boxes[..., 1::2] * height], -1).flatten(-2)
        scores, classes = output.logits.softmax(-1)[..., :-1].max(-1)
        return [
            {"boxes": box, "scores": score, "labels": label}
            for box, score, label in zip(boxes, scores, classes, strict=True)
        ]


def _detr_labels(instances):
    height, width = instances.image_size
    boxes = box_convert(instances.gt_boxes.tensor, "xyxy", "cxcywh")
    boxes = torch.stack([boxes[:, 0::2] / width, boxes[:, 1::2] / height], -1).flatten(-2)
    return {"class_labels": instances.gt_classes, "boxes": boxes}


# By the name of the row; each takes the size of the images.
PEERS = {"torchvision Faster R-CNN R50-FPN": FasterRCNNPeer, "transformers DETR R50": DetrPeer}

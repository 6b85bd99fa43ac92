"""Dual Attention Network for Scene Segmentation (CVPR 2019), a head for detectron2's segmentor.

Dimension letters: B images, K classes, C channels of the head; H, W of the image after padding,
h, w of the feature map.
"""

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from .danet_attention import build_danet_attention
from .norm import choose_norm

__all__ = ["DANetHead"]


@SEM_SEG_HEADS_REGISTRY.register()
class DANetHead(nn.Module):
    """Two branches of 3x3 convolution, norm and ReLU, one with position attention and one with
    channel attention; their sum, a 1x1 predictor, and bilinear interpolation to the image.

    With `refine`, as in the paper: another 3x3 convolution after each attention, and a predictor
    with a loss of its own on each branch, which inference does not use.
    """

    @configurable
    def __init__(
        self,
        *,
        in_feature,
        in_channels,
        stride,
        num_classes,
        conv_dims,
        position_attention,
        channel_attention,
        refine=False,
        norm="BN",
        loss_weight=1.0,
        ignore_value=255,
    ):
        """
        Args:
            in_feature (str): name of the backbone's map.
            in_channels, stride (int): of that map.
            num_classes (int): K.
            conv_dims (int): C.
            position_attention, channel_attention (nn.Module): (B, C, h, w) to the same shape.
            refine (bool): see above.
            norm (str): as :func:`detectron2.layers.get_norm` takes it.
            loss_weight (float): of each loss.
            ignore_value (int): label of pixels without a class.
        """
        super().__init__()
        self.in_feature = in_feature
        self.stride = stride
        self.refine = refine
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value

        def build_branch(attention):
            layers = [_conv3x3(in_channels, conv_dims, norm), attention]
            if refine:
                layers.append(_conv3x3(conv_dims, conv_dims, norm))
            return nn.Sequential(*layers)

        self.position_branch = build_branch(position_attention)
        self.channel_branch = build_branch(channel_attention)
        self.predictor = _predictor(conv_dims, num_classes)
        if refine:
            self.position_predictor = _predictor(conv_dims, num_classes)
            self.channel_predictor = _predictor(conv_dims, num_classes)

    @classmethod
    def from_config(cls, cfg, input_shape):
        head = cfg.MODEL.SEM_SEG_HEAD
        if len(head.IN_FEATURES) != 1 or head.IN_FEATURES[0] not in input_shape:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(head.IN_FEATURES)}; DANetHead reads one "
                f"map, of those that the backbone gives: {sorted(input_shape)}."
            )
        (in_feature,) = head.IN_FEATURES
        position, channel = build_danet_attention(cfg.MODEL.DANET.ATTENTION, head.CONVS_DIM)
        return {
            "in_feature": in_feature,
            "in_channels": input_shape[in_feature].channels,
            "stride": input_shape[in_feature].stride,
            "num_classes": head.NUM_CLASSES,
            "conv_dims": head.CONVS_DIM,
            "position_attention": position,
            "channel_attention": channel,
            "refine": cfg.MODEL.DANET.ATTENTION == "projected",
            "norm": choose_norm(head.NORM, cfg.MODEL.DEVICE),
            "loss_weight": head.LOSS_WEIGHT,
            "ignore_value": head.IGNORE_VALUE,
        }

    def forward(self, features, targets=None):
        """
        Args:
            features (dict[str, Tensor]): the backbone's maps.
            targets: (B, H, W), int64, class or `ignore_value`; in training.

        Returns:
            tuple: in training, None and the weighted losses: ``loss_sem_seg``, and with `refine`
            ``loss_position`` and ``loss_channel`` of the branches by themselves. In inference,
            logits (B, K, h * stride, w * stride), which reach beyond the image where its size is
            no multiple of the stride, and {}.
        """
        feature = features[self.in_feature]
        position, channel = self.position_branch(feature), self.channel_branch(feature)
        logits = self.predictor(position + channel)
        if not self.training:
            return self._upsample(logits), {}
        losses = {"loss_sem_seg": self._loss(logits, targets)}
        if self.refine:
            losses["loss_position"] = self._loss(self.position_predictor(position), targets)
            losses["loss_channel"] = self._loss(self.channel_predictor(channel), targets)
        return None, losses

    def _upsample(self, logits):
        return F.interpolate(
            logits.float(), scale_factor=self.stride, mode="bilinear", align_corners=False
        )

    def _loss(self, logits, targets):
        """Cross-entropy, averaged over the pixels with a class; 0 if there are none."""
        H, W = targets.shape[-2:]
        logits = self._upsample(logits)[..., :H, :W]
        total = F.cross_entropy(logits, targets, ignore_index=self.ignore_value, reduction="sum")
        labelled = (targets != self.ignore_value).sum().clamp(min=1)
        return self.loss_weight * total / labelled


def _conv3x3(in_channels, out_channels, norm):
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv


def _predictor(channels, num_classes):
    conv = Conv2d(channels, num_classes, kernel_size=1)
    # All classes start about equally likely, whatever the size of the features.
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return conv

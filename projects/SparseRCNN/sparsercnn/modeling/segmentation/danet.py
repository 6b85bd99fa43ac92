"""Dual Attention Network for Scene Segmentation (CVPR 2019), a head for `SemanticSegmentor`.

Dimension letters: B images, K classes, C channels of the head; H, W size of the padded image,
h, w size of the feature map.
"""

import math

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from ...errors import ConfigError
from ..norm import choose_norm
from .danet_attention import build_danet_attention

__all__ = ["DANetHead"]

_LOSS_TYPES = ("cross_entropy", "hard_pixel_mining")


@SEM_SEG_HEADS_REGISTRY.register()
class DANetHead(nn.Module):
    """Position attention and channel attention in parallel branches, summed and classified.

    Each branch is a 3x3 convolution, norm and ReLU, followed by its attention. A 1x1 predictor
    classifies the sum, and logits are interpolated bilinearly to the image. With `refine`, as in
    the paper, each attention is followed by another 3x3 convolution, and each branch has its own
    predictor and loss in training.
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
        dropout=0.0,
        loss_weight=1.0,
        loss_type="cross_entropy",
        loss_top_k=0.2,
        ignore_value=255,
    ):
        """
        Args:
            in_feature (str): name of the backbone's map to read.
            in_channels, stride (int): channels and stride of that map.
            num_classes (int): K.
            conv_dims (int): C.
            position_attention, channel_attention (nn.Module): (B, C, h, w) to the same shape.
            refine (bool): see above.
            norm (str): see :func:`detectron2.layers.get_norm`.
            dropout (float): probability of dropping a channel before each predictor, in training.
            loss_weight (float): factor on each loss.
            loss_type (str): "cross_entropy", averaged over all labelled pixels, or
                "hard_pixel_mining" (OHEM), averaged over those of the batch with the largest loss.
            loss_top_k (float): fraction of labelled pixels that is mined, above 0 and at most 1.
            ignore_value (int): label of pixels without a class.

        Raises:
            ConfigError: unknown `loss_type`, or `dropout` or `loss_top_k` out of range.
        """
        super().__init__()
        _check(dropout, loss_type, loss_top_k)
        self.in_feature = in_feature
        self.stride = stride
        self.refine = refine
        self.loss_weight = loss_weight
        self.mined_share = loss_top_k if loss_type == "hard_pixel_mining" else None
        self.ignore_value = ignore_value

        def build_branch(attention):
            layers = [_conv3x3(in_channels, conv_dims, norm), attention]
            if refine:
                layers.append(_conv3x3(conv_dims, conv_dims, norm))
            return nn.Sequential(*layers)

        self.position_branch = build_branch(position_attention)
        self.channel_branch = build_branch(channel_attention)
        # Outside of the predictors, so that their weights keep their names.
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = _predictor(conv_dims, num_classes)
        if refine:
            self.position_predictor = _predictor(conv_dims, num_classes)
            self.channel_predictor = _predictor(conv_dims, num_classes)

    @classmethod
    def from_config(cls, cfg, input_shape):
        head = cfg.MODEL.SEM_SEG_HEAD
        if len(head.IN_FEATURES) != 1 or head.IN_FEATURES[0] not in input_shape:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(head.IN_FEATURES)}; DANetHead reads one "
                f"map. Set it to one of the backbone's outputs: {sorted(input_shape)}."
            )
        (in_feature,) = head.IN_FEATURES
        danet = cfg.MODEL.DANET
        refine = danet.ATTENTION == "projected"
        position, channel = build_danet_attention(danet.ATTENTION, head.CONVS_DIM)
        return {
            "in_feature": in_feature,
            "in_channels": input_shape[in_feature].channels,
            "stride": input_shape[in_feature].stride,
            "num_classes": head.NUM_CLASSES,
            "conv_dims": head.CONVS_DIM,
            "position_attention": position,
            "channel_attention": channel,
            "refine": refine,
            "norm": choose_norm(head.NORM, cfg.MODEL.DEVICE),
            "dropout": danet.DROPOUT if refine else 0.0,
            "loss_weight": head.LOSS_WEIGHT,
            "loss_type": head.LOSS_TYPE,
            "loss_top_k": head.LOSS_TOP_K,
            "ignore_value": head.IGNORE_VALUE,
        }

    def forward(self, features, targets=None):
        """
        Args:
            features (dict[str, Tensor]): the backbone's maps.
            targets: (B, H, W), int64, class or `ignore_value`; only in training.

        Returns:
            tuple: in training, None and the weighted losses: ``loss_sem_seg``, and with `refine`
            ``loss_position`` and ``loss_channel`` for the two branches. In inference, logits
            (B, K, h * stride, w * stride), larger than the image if its size is not a multiple of
            the stride, and {}.
        """
        feature = features[self.in_feature]
        position, channel = self.position_branch(feature), self.channel_branch(feature)
        logits = self.predictor(self.dropout(position + channel))
        if not self.training:
            return self._upsample(logits), {}
        losses = {"loss_sem_seg": self._loss(logits, targets)}
        if self.refine:
            losses["loss_position"] = self._loss(
                self.position_predictor(self.dropout(position)), targets
            )
            losses["loss_channel"] = self._loss(
                self.channel_predictor(self.dropout(channel)), targets
            )
        return None, losses

    def _upsample(self, logits):
        return F.interpolate(
            logits.float(), scale_factor=self.stride, mode="bilinear", align_corners=False
        )

    def _loss(self, logits, targets):
        """Mean cross-entropy of the labelled pixels, or of the hardest ones; 0 without labels."""
        H, W = targets.shape[-2:]
        logits = self._upsample(logits)[..., :H, :W]
        labelled = (targets != self.ignore_value).sum()
        options = {"ignore_index": self.ignore_value}
        if self.mined_share is None:
            total = F.cross_entropy(logits, targets, reduction="sum", **options)
            return self.loss_weight * total / labelled.clamp(min=1)
        losses = F.cross_entropy(logits, targets, reduction="none", **options)
        return self.loss_weight * _mean_of_largest(losses.flatten(), self.mined_share, labelled)


def _check(dropout, loss_type, loss_top_k):
    if not 0 <= dropout < 1:
        raise ConfigError(f"MODEL.DANET.DROPOUT is {dropout}; it must be at least 0 and below 1.")
    if loss_type not in _LOSS_TYPES:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.LOSS_TYPE is '{loss_type}'; it must be one of "
            f"{', '.join(_LOSS_TYPES)}."
        )
    if not 0 < loss_top_k <= 1:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.LOSS_TOP_K is {loss_top_k}; it must be above 0 and at most 1."
        )


def _mean_of_largest(losses, share, num_labelled):
    """Mean of the `share` * `num_labelled` (0-d tensor), rounded up, largest of `losses` (L,).

    Losses of unlabelled pixels are 0 and sort last. The number of labelled pixels is known only on
    the device, so the largest possible number of losses is selected and then masked.
    """
    largest = losses.topk(math.ceil(share * len(losses))).values
    kept = torch.arange(len(largest), device=losses.device) < share * num_labelled
    return largest.where(kept, 0.0).sum() / kept.sum().clamp(min=1)


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
    # Small weights: all classes start about equally likely, whatever the scale of the features.
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return conv

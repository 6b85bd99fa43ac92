"""Attention feature aggregation: feature pyramids with attention in place of an FPN's sum.

MSSA, MSCA and their adaptive forms from "Attention-based Feature Aggregation" (CVPR 2022
submission 9754, github.com/XiongweiWu/MSCA-SA).

Dimension letters: B images, C channels, H and W the sides of a map.
"""

import itertools
import math
from functools import partial

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import (
    FPN,
    LastLevelMaxPool,
    build_resnet_fpn_backbone,
)
from torch import nn

from ...errors import ConfigError
from ..backbones.res5_attention import add_res5_attention
from ..backbones.timm_backbone import TimmBackbone
from .pooled_attention import AttentionBlock, GridPooling, WindowPooling, upsample

__all__ = [
    "AGGREGATIONS",
    "MSCA",
    "MSSA",
    "AttentionFPN",
    "build_resnet_attention_fpn_backbone",
    "build_timm_fpn_backbone",
]

_WINDOWS = (64, 32)  # sides of the pooling windows in image pixels


class AttentionFPN(Backbone):
    """A pyramid p2 ... p5 from res2 ... res5, and p6, a stride-2 max pool of p5.

    1x1 convolutions project the bottom-up maps to C channels (l2 ... l5). Subclasses define how a
    level is computed from its lateral map and the coarser level. Unlike an FPN, there are no 3x3
    output convolutions. The input may have any size; like detectron2's FPN, it makes detectors pad
    images to multiples of 32.
    """

    cross = False  # whether the blocks attend to a second map

    @configurable
    def __init__(self, *, bottom_up, in_features, out_channels, norm="", adaptive=False):
        """
        Args:
            bottom_up (Backbone): computes the maps named in `in_features`.
            in_features (list[str]): finest first, each with twice the stride of the previous one.
            out_channels (int): C, the same for all levels.
            norm (str): norm of the lateral convolutions, as in detectron2's FPN.
            adaptive (bool): True: pool to a 7x7 grid. False: pool to windows of 64 and 32 image
                pixels: 16 and 8 positions of p2, 8 and 4 of p3, 4 and 2 of p4, 2 and 1 of p5.

        Raises:
            ConfigError: `in_features` is empty, names maps that `bottom_up` lacks, or has strides
                that do not double.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        if not in_features or not shapes.keys() >= set(in_features):
            raise ConfigError(
                f"MODEL.FPN.IN_FEATURES is {list(in_features)}; it must name maps of "
                f"MODEL.RESNETS.OUT_FEATURES, {list(shapes)}."
            )
        strides = [shapes[name].stride for name in in_features]
        if any(fine * 2 != coarse for fine, coarse in itertools.pairwise(strides)):
            raise ConfigError(
                "The stride of each map in MODEL.FPN.IN_FEATURES must be twice that of the "
                f"previous one, but the strides of {list(in_features)} are {strides}."
            )
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.levels = [int(math.log2(stride)) for stride in strides]
        for name, stride, level in zip(in_features, strides, self.levels, strict=True):
            # Named as in detectron2's FPN, whose weights can then be loaded.
            self.add_module(
                f"fpn_lateral{level}",
                Conv2d(
                    shapes[name].channels,
                    out_channels,
                    kernel_size=1,
                    bias=norm == "",
                    norm=get_norm(norm, out_channels),
                ),
            )
            windows = [max(side // stride, 1) for side in _WINDOWS]
            pooling = GridPooling() if adaptive else WindowPooling(windows)
            block = AttentionBlock(out_channels, pooling, cross=self.cross)
            self.add_module(f"fpn_attention{level}", block)
            _initialize(getattr(self, f"fpn_lateral{level}"))
            _initialize(block)
        self._size_divisibility = strides[-1]
        # Read by Backbone.output_shape.
        self._out_feature_strides = {f"p{x}": 2**x for x in [*self.levels, self.levels[-1] + 1]}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @classmethod
    def from_config(cls, cfg, input_shape, bottom_up=None):
        if cfg.MODEL.FPN.FUSE_TYPE != "sum":
            raise ConfigError(
                f"MODEL.FPN.FUSE_TYPE is '{cfg.MODEL.FPN.FUSE_TYPE}', which has no effect with "
                f"MODEL.FPN.AGGREGATION '{cfg.MODEL.FPN.AGGREGATION}'; set it to 'sum'."
            )
        return {
            "bottom_up": bottom_up or build_resnet_backbone(cfg, input_shape),
            "in_features": cfg.MODEL.FPN.IN_FEATURES,
            "out_channels": cfg.MODEL.FPN.OUT_CHANNELS,
            "norm": cfg.MODEL.FPN.NORM,
        }

    @property
    def size_divisibility(self):
        return self._size_divisibility

    def forward(self, x):
        """
        Args:
            x: (B, 3, H, W), of any size.

        Returns:
            dict[str, Tensor]: "p2" ... "p6", finest first, each (B, C, H_l, W_l); p2 ... p5 have
            the size of the bottom-up map of the same stride.
        """
        features = self.bottom_up(x)
        levels = []
        for name, level in zip(reversed(self.in_features), reversed(self.levels), strict=True):
            lateral = getattr(self, f"fpn_lateral{level}")(features[name])
            # With channels last in memory, LayerNorm and Linear need no copies.
            lateral = lateral.contiguous(memory_format=torch.channels_last)
            block = getattr(self, f"fpn_attention{level}")
            if levels:
                levels.append(self.aggregate(block, lateral, levels[-1]))
            else:
                levels.append(self.refine(block, lateral))
        coarsest = levels[0][:, :, ::2, ::2]  # max pooling with windows of one pixel
        return dict(zip(self._out_features, [*reversed(levels), coarsest], strict=True))

    def refine(self, block, lateral):
        """Compute the coarsest level from its lateral map."""
        raise NotImplementedError

    def aggregate(self, block, lateral, coarser):
        """Compute a level, (B, C, H, W), by its `block` from its lateral map, (B, C, H, W), and the
        next coarser level, (B, C, h, w)."""
        raise NotImplementedError


class MSSA(AttentionFPN):
    """Multi-scale self-attention: p5 = Block(l5), p_i = Block(l_i + up(p_{i+1}))."""

    def refine(self, block, lateral):
        return block(lateral)

    def aggregate(self, block, lateral, coarser):
        return block(lateral + upsample(coarser, lateral.shape[2:]))


class MSCA(AttentionFPN):
    """Multi-scale cross-attention: p5 = Block(l5, l5), p_i = l_i + Block(up(p_{i+1}), l_i)."""

    cross = True

    def refine(self, block, lateral):
        return block(lateral, lateral)

    def aggregate(self, block, lateral, coarser):
        return lateral + block(coarser, lateral)


def _build_fpn(cfg, input_shape, bottom_up=None):
    if bottom_up is None:
        return build_resnet_fpn_backbone(cfg, input_shape)
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )


# MODEL.FPN.AGGREGATION -> builder, called with the config, the shape of the input and, unless it is
# a ResNet, the bottom-up backbone.
AGGREGATIONS = {
    "sum": _build_fpn,
    "mssa": MSSA,
    "mssa_adp": partial(MSSA, adaptive=True),
    "msca": MSCA,
    "msca_adp": partial(MSCA, adaptive=True),
}


@BACKBONE_REGISTRY.register()
def build_resnet_attention_fpn_backbone(cfg, input_shape):
    """Build a ResNet with the pyramid that ``MODEL.FPN.AGGREGATION`` names; "sum" is the FPN.

    With ``MODEL.RESNETS.RES5_ATTENTION``, res5 ends with DANet's attentions.

    Args:
        cfg (CfgNode): the whole config.
        input_shape (ShapeSpec): shape of the image.

    Returns:
        Backbone: with outputs "p2" ... "p6".

    Raises:
        ConfigError: unknown aggregation.
    """
    return add_res5_attention(_builder(cfg)(cfg, input_shape), cfg)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape):
    """Build a model of timm with the pyramid that ``MODEL.FPN.AGGREGATION`` names; "sum": the FPN.

    Args:
        cfg (CfgNode): the whole config.
        input_shape (ShapeSpec): shape of the image.

    Returns:
        Backbone: with outputs "p2" ... "p6".

    Raises:
        ConfigError: unknown aggregation; maps that the model lacks, or whose strides do not double;
            or see :class:`~sparsercnn.modeling.backbones.timm_backbone.TimmBackbone`.
    """
    bottom_up = TimmBackbone(cfg, input_shape)
    shapes, names = bottom_up.output_shape(), cfg.MODEL.FPN.IN_FEATURES
    strides = [shapes[name].stride for name in names if name in shapes]
    if not names or len(strides) < len(names):
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES is {list(names)}; it must name maps of "
            f"MODEL.TIMM.OUT_FEATURES, {list(shapes)}."
        )
    if any(fine * 2 != coarse for fine, coarse in itertools.pairwise(strides)):
        raise ConfigError(
            f"A pyramid needs maps whose strides double; those of timm's {cfg.MODEL.TIMM.NAME}, "
            f"{list(names)}, are {strides}. Set MODEL.TIMM.OUTPUT_STRIDE to 32, or choose another "
            "MODEL.TIMM.NAME."
        )
    return _builder(cfg)(cfg, input_shape, bottom_up=bottom_up)


def _builder(cfg):
    name = cfg.MODEL.FPN.AGGREGATION
    if name not in AGGREGATIONS:
        raise ConfigError(
            f"MODEL.FPN.AGGREGATION must be one of {', '.join(AGGREGATIONS)}, got '{name}'."
        )
    return AGGREGATIONS[name]


def _initialize(module):
    """Xavier-uniform convolutions, Linear layers with standard deviation 0.02, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

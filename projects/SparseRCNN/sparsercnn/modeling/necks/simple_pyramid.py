"""The simple feature pyramid of ViTDet: Exploring Plain Vision Transformer Backbones for Object
Detection (ECCV 2022), section 3.

Dimension letters: B images, C channels of the pyramid; H, W size of a map.
"""

import math

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from ...errors import ConfigError
from ..backbones.vit import ViT

__all__ = ["SimpleFeaturePyramid", "build_vit_backbone"]

_LEVELS = (2, 3, 4, 5)


class SimpleFeaturePyramid(Backbone):
    """p2 ... p5, of strides 4 to 32, or some of them, each from the last map of a plain backbone
    alone; with p5 also p6, a stride-2 max pool of it.

    Finer levels are made by deconvolutions of stride 2 that halve the channels, with layer norm and
    GELU between them, coarser ones by max pooling; then come a 1x1 and a 3x3 convolution to C
    channels, each with a layer norm over channels.
    """

    def __init__(self, bottom_up, out_channels, levels=_LEVELS):
        """
        Args:
            bottom_up (Backbone): computes one map, whose stride is a power of two.
            out_channels (int): C.
            levels (sequence[int]): i for each p_i to build, ascending. Several processes cannot
                train a level that nothing reads: its weights have no gradient to exchange.

        Raises:
            ConfigError: the stride is none.
        """
        super().__init__()
        ((self.in_feature, shape),) = bottom_up.output_shape().items()
        if math.log2(shape.stride) % 1:
            raise ConfigError(
                f"The simple feature pyramid needs a patch size that is a power of two, not "
                f"{shape.stride}. Set MODEL.VIT.PATCH_SIZE to 16: pretrained weights of another "
                "patch size are made to fit."
            )
        self.bottom_up = bottom_up
        self.levels = list(levels)
        for level in self.levels:
            self.add_module(f"level{level}", _level(shape, 2**level, out_channels))
        self.top_block = LastLevelMaxPool() if _LEVELS[-1] in self.levels else None
        # Read by Backbone.output_shape.
        made = self.levels if self.top_block is None else [*self.levels, _LEVELS[-1] + 1]
        self._out_feature_strides = {f"p{x}": 2**x for x in made}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self):
        return math.lcm(2 ** self.levels[-1], max(self.bottom_up.size_divisibility, 1))

    def forward(self, x):
        """
        Args:
            x: (B, 3, height, width), of sides that `size_divisibility` divides.

        Returns:
            dict[str, Tensor]: of `levels`, finest first, then "p6" if it is there; (B, C, H, W).
        """
        x = self.bottom_up(x)[self.in_feature]
        levels = [getattr(self, f"level{level}")(x) for level in self.levels]
        if self.top_block is not None:
            levels += self.top_block(levels[-1])
        return dict(zip(self._out_features, levels, strict=True))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, x):
        """(B, C, H, W) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _level(shape: ShapeSpec, stride, out_channels):
    channels, layers = shape.channels, []
    steps = int(math.log2(shape.stride / stride))
    for step in range(steps):
        if step:
            layers += [ChannelNorm(channels, eps=1e-6), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
        channels //= 2
    layers += [nn.MaxPool2d(kernel_size=2, stride=2) for _ in range(-steps)]
    for side in (1, 3):
        conv = nn.Conv2d(channels, out_channels, side, padding=side // 2, bias=False)
        nn.init.kaiming_uniform_(conv.weight, a=1)  # as of an FPN
        layers += [conv, ChannelNorm(out_channels, eps=1e-6)]
        channels = out_channels
    return nn.Sequential(*layers)


@BACKBONE_REGISTRY.register()
def build_vit_backbone(cfg, input_shape):
    """Build a plain ViT with the simple feature pyramid, for MODEL.BACKBONE.NAME.

    Args:
        cfg (CfgNode): the whole config; MODEL.VIT and MODEL.FPN.OUT_CHANNELS are read.
        input_shape (ShapeSpec): shape of the image.

    Returns:
        Backbone: with outputs "p2" ... "p6"; for a `SemanticSegmentor` with the levels that
        MODEL.SEM_SEG_HEAD.IN_FEATURES names.

    Raises:
        ConfigError: IN_FEATURES names another map; or see
            :class:`~sparsercnn.modeling.backbones.vit.ViT`.
    """
    is_segmentor = cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor"
    levels = _levels_read(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES) if is_segmentor else _LEVELS
    return SimpleFeaturePyramid(ViT(cfg, input_shape), cfg.MODEL.FPN.OUT_CHANNELS, levels)


def _levels_read(names):
    levels = {**{f"p{x}": x for x in _LEVELS}, f"p{_LEVELS[-1] + 1}": _LEVELS[-1]}
    if not names or not levels.keys() >= set(names):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(names)}; it must name maps of the simple "
            f"feature pyramid, {list(levels)}."
        )
    return sorted({levels[name] for name in names})

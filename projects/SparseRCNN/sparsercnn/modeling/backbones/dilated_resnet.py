"""ResNets with a small output stride: dilation replaces the last downsamplings."""

from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet

from ...errors import ConfigError
from ..norm import choose_norm

__all__ = ["DilatedBasicBlock", "build_dilated_resnet_backbone", "make_dilated_resnet"]

_NUM_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_BOTTLENECK_DEPTH = 50  # smallest depth with bottleneck blocks
_DILATIONS = ((1, 1), (1, 2), (2, 4))  # of (res4, res5), for output strides 32, 16 and 8


class DilatedBasicBlock(BasicBlock):
    """The block of ResNet-18 and 34 with dilation, which detectron2's lacks."""

    def __init__(self, in_channels, out_channels, *, stride=1, norm="BN", dilation=1):
        """
        Args:
            dilation (int): dilation of both 3x3 convolutions.
            in_channels, out_channels, stride, norm: see detectron2's `BasicBlock`.
        """
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        for conv in (self.conv1, self.conv2):
            conv.dilation = conv.padding = (dilation, dilation)


def make_dilated_resnet(
    *,
    depth,
    norm,
    out_features,
    res4_dilation=2,
    res5_dilation=4,
    res5_multi_grid=(),
    in_channels=3,
    stem_channels=64,
    res2_channels=256,
    num_groups=1,
    width_per_group=64,
    stride_in_1x1=False,
    freeze_at=0,
):
    """Build detectron2's ResNet with dilated stages; weights keep their names and shapes.

    A dilated stage keeps the resolution of its input, and all its blocks are dilated, as with
    detectron2's RES5_DILATION.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        norm (str): see :func:`detectron2.layers.get_norm`.
        out_features (list[str]): from "stem", "res2" ... "res5"; later stages are left out.
        res4_dilation, res5_dilation (int): 2 and 4 for output stride 8, 1 and 2 for 16, 1 and 1
            for 32.
        res5_multi_grid (sequence[int]): factor on the dilation for each block of res5; (): all 1.
        in_channels, stem_channels, res2_channels (int): output channels double with each stage
            after res2.
        num_groups, width_per_group (int): of the 3x3 convolutions, for depth 50 and above.
        stride_in_1x1 (bool): stride in the first 1x1 convolution of a block instead of the 3x3
            one, for depth 50 and above.
        freeze_at (int): number of frozen stages, including the stem.

    Raises:
        ConfigError: unsupported depth or dilations, or a `res5_multi_grid` of the wrong length.
    """
    dilations = _dilations(depth, res4_dilation, res5_dilation, res5_multi_grid)
    stem = BasicStem(in_channels=in_channels, out_channels=stem_channels, norm=norm)
    channels, stages = stem_channels, []
    for index, (keeps_resolution, per_block) in enumerate(
        zip((True, False, res4_dilation > 1, res5_dilation > 1), dilations, strict=True)
    ):
        out_channels = res2_channels * 2**index
        options = {"block_class": DilatedBasicBlock}
        if depth >= _BOTTLENECK_DEPTH:
            options = {
                "block_class": BottleneckBlock,
                "bottleneck_channels": num_groups * width_per_group * 2**index,
                "num_groups": num_groups,
                "stride_in_1x1": stride_in_1x1,
            }
        first_stride = 1 if keeps_resolution else 2
        stages.append(
            ResNet.make_stage(
                num_blocks=len(per_block),
                in_channels=channels,
                out_channels=out_channels,
                stride_per_block=[first_stride] + [1] * (len(per_block) - 1),
                dilation_per_block=per_block,
                norm=norm,
                **options,
            )
        )
        channels = out_channels
    return ResNet(stem, stages, out_features=out_features, freeze_at=freeze_at)


def _dilations(depth, res4_dilation, res5_dilation, res5_multi_grid):
    """Dilation of each block, for each stage from res2 to res5."""
    if depth not in _NUM_BLOCKS:
        raise ConfigError(f"MODEL.RESNETS.DEPTH is {depth}; it must be one of {[*_NUM_BLOCKS]}.")
    if (res4_dilation, res5_dilation) not in _DILATIONS:
        raise ConfigError(
            f"MODEL.RESNETS.RES4_DILATION {res4_dilation} with RES5_DILATION {res5_dilation} is "
            f"not supported; use one of the pairs {', '.join(map(str, _DILATIONS))}."
        )
    per_stage = (1, 1, res4_dilation, res5_dilation)
    dilations = [[x] * n for x, n in zip(per_stage, _NUM_BLOCKS[depth], strict=True)]
    if res5_multi_grid and len(res5_multi_grid) != len(dilations[-1]):
        raise ConfigError(
            f"MODEL.RESNETS.RES5_MULTI_GRID is {[*res5_multi_grid]}; res5 of depth {depth} has "
            f"{len(dilations[-1])} blocks. Give one factor for each, or [] for none."
        )
    if res5_multi_grid:
        dilations[-1] = [res5_dilation * factor for factor in res5_multi_grid]
    return dilations


@BACKBONE_REGISTRY.register()
def build_dilated_resnet_backbone(cfg, input_shape):
    """:func:`make_dilated_resnet` from MODEL.RESNETS, for MODEL.BACKBONE.NAME.

    Args:
        cfg (CfgNode): the whole config. MODEL.RESNETS.NORM may be "auto", see
            :func:`~sparsercnn.modeling.norm.choose_norm`.
        input_shape (ShapeSpec): shape of the image.

    Raises:
        ConfigError: as :func:`make_dilated_resnet`, or the config asks for deformable
            convolutions.
    """
    resnets = cfg.MODEL.RESNETS
    if any(resnets.DEFORM_ON_PER_STAGE):
        raise ConfigError(
            "build_dilated_resnet_backbone has no deformable convolutions; set "
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE to False for all stages."
        )
    return make_dilated_resnet(
        depth=resnets.DEPTH,
        norm=choose_norm(resnets.NORM, cfg.MODEL.DEVICE),
        out_features=resnets.OUT_FEATURES,
        res4_dilation=resnets.RES4_DILATION,
        res5_dilation=resnets.RES5_DILATION,
        res5_multi_grid=resnets.RES5_MULTI_GRID,
        in_channels=input_shape.channels,
        stem_channels=resnets.STEM_OUT_CHANNELS,
        res2_channels=resnets.RES2_OUT_CHANNELS,
        num_groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )

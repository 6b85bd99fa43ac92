"""DANet's position and channel attention at the end of a detector's ResNet."""

from torch import nn

from ...errors import ConfigError
from ..segmentation.danet_attention import build_danet_attention

__all__ = ["PositionChannelAttention", "add_res5_attention"]


class PositionChannelAttention(nn.Module):
    """Both attentions on one map, beside each other: x, plus what each of them adds to it."""

    def __init__(self, position, channel):
        """
        Args:
            position, channel (nn.Module): as :func:`build_danet_attention` gives them.
        """
        super().__init__()
        self.position = position
        self.channel = channel

    def forward(self, x):
        """(B, C, H, W) to (B, C, H, W)."""
        return self.position(x) + self.channel(x) - x


def add_res5_attention(backbone, cfg):
    """Let res5 end with both attentions, of the kind that ``MODEL.RESNETS.RES5_ATTENTION`` names.

    They become the last module of the stage, so that the other weights keep their names, and
    every neck that reads res5 reads it with attention.

    Args:
        backbone (Backbone): a ResNet, or an FPN over one; changed in place.
        cfg (CfgNode): the whole config.

    Returns:
        Backbone: `backbone`.

    Raises:
        ConfigError: the key is set, and the backbone has no res5.
    """
    kind = cfg.MODEL.RESNETS.RES5_ATTENTION
    if not kind:
        return backbone
    stage = getattr(getattr(backbone, "bottom_up", backbone), "res5", None)
    if not isinstance(stage, nn.Sequential):
        raise ConfigError(
            f"MODEL.RESNETS.RES5_ATTENTION is '{kind}', but the backbone "
            f"'{cfg.MODEL.BACKBONE.NAME}' has no res5: it needs a ResNet with all stages."
        )
    modules = build_danet_attention(kind, stage[-1].out_channels)
    stage.add_module("dual_attention", PositionChannelAttention(*modules))
    return backbone

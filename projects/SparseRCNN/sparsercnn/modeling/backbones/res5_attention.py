"""DANet's position and channel attention at the end of a detector's ResNet."""

from torch import nn

from ...errors import ConfigError
from ..segmentation.danet_attention import build_danet_attention

__all__ = ["PositionChannelAttention", "add_res5_attention"]


class PositionChannelAttention(nn.Module):
    """Both attentions in parallel on one map: x plus the residual of each."""

    def __init__(self, position, channel):
        """Both modules are from :func:`build_danet_attention` and map x to x plus a residual."""
        super().__init__()
        self.position = position
        self.channel = channel

    def forward(self, x):
        """(B, C, H, W) to (B, C, H, W)."""
        return self.position(x) + self.channel(x) - x


def add_res5_attention(backbone, cfg):
    """Append both attentions to res5, of the kind that ``MODEL.RESNETS.RES5_ATTENTION`` names.

    They become the last module of the stage: all other weights keep their names, and every neck
    that reads res5 gets the result of the attentions.

    Args:
        backbone (Backbone): a ResNet, or an FPN over one; changed in place.
        cfg (CfgNode): the whole config.

    Returns:
        Backbone: `backbone`.

    Raises:
        ConfigError: the key is set, but the backbone has no res5.
    """
    kind = cfg.MODEL.RESNETS.RES5_ATTENTION
    if not kind:
        return backbone
    stage = getattr(getattr(backbone, "bottom_up", backbone), "res5", None)
    if not isinstance(stage, nn.Sequential):
        raise ConfigError(
            f"MODEL.RESNETS.RES5_ATTENTION is '{kind}', but the backbone "
            f"'{cfg.MODEL.BACKBONE.NAME}' has no res5. Use a ResNet with all stages."
        )
    modules = build_danet_attention(kind, stage[-1].out_channels)
    stage.add_module("dual_attention", PositionChannelAttention(*modules))
    return backbone

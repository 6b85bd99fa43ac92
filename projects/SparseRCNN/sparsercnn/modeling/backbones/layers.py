"""What training asks of a backbone of any kind: its blocks, its layers, and what has no decay."""

from detectron2.layers import CNNBlockBase
from detectron2.modeling import ResNet

from ...errors import ConfigError
from .timm_backbone import TimmBackbone
from .vit import ViT, ViTBlock

__all__ = ["blocks_of", "bottom_up_of", "layers_of", "undecayed_of"]


def bottom_up_of(backbone):
    """A backbone without its neck (nn.Module); without one, itself."""
    return getattr(backbone, "bottom_up", backbone)


def blocks_of(backbone):
    """The residual blocks (list[nn.Module]) of a backbone and of its neck, if it has one."""
    bottom_up = bottom_up_of(backbone)
    of_timm = bottom_up.blocks() if isinstance(bottom_up, TimmBackbone) else []
    return of_timm + [x for x in backbone.modules() if isinstance(x, CNNBlockBase | ViTBlock)]


def layers_of(backbone):
    """Layers of a backbone, for rates that decay from the last to the first.

    Args:
        backbone (Backbone): a ResNet, a :class:`TimmBackbone` or a :class:`ViT`, or a neck over
            one.

    Returns:
        dict[Parameter, int]: the layer of each parameter that is not the neck's: 0 for the stem, or
        patch embedding and positions, then one for each block.

    Raises:
        ConfigError: a backbone of another kind, or timm has no groups for the model.
    """
    bottom_up = bottom_up_of(backbone)
    if isinstance(bottom_up, ResNet):
        numbers = _layers_of_resnet(bottom_up)
    elif isinstance(bottom_up, TimmBackbone | ViT):
        numbers = bottom_up.layers()
    else:
        raise ConfigError(
            f"SOLVER.LAYER_DECAY needs the layers of the backbone, and {type(bottom_up).__name__} "
            "does not say which they are. Set it to 1, or MODEL.BACKBONE.NAME to "
            "build_vit_backbone, build_timm_fpn_backbone or a ResNet."
        )
    return {p: numbers[name] for name, p in bottom_up.named_parameters()}


def undecayed_of(backbone, scales=False):
    """Parameters that weight decay must not pull towards 0: positions and tokens.

    Args:
        backbone (Backbone): with or without a neck; only those of this room have such parameters.
        scales (bool): also those of one dimension, such as the scales of ConvNeXt's blocks.

    Returns:
        set[Parameter]:
    """
    bottom_up = bottom_up_of(backbone)
    if not isinstance(bottom_up, TimmBackbone | ViT):
        return set()
    names = bottom_up.undecayed()
    return {
        p for name, p in bottom_up.named_parameters() if name in names or (scales and p.dim() < 2)
    }


def _layers_of_resnet(resnet):
    numbers, last = {}, 0
    for stage in ("stem", *resnet.stage_names):
        blocks = [stage]
        if stage != "stem":
            blocks = [f"{stage}.{name}" for name, _ in getattr(resnet, stage).named_children()]
        for block in blocks:
            for name, _ in resnet.get_submodule(block).named_parameters():
                numbers[f"{block}.{name}"] = last
            last += 1
    return numbers

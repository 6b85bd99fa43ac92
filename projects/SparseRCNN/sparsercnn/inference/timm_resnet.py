"""The parts of timm's ResNets that can be joined for inference, as those of detectron2's."""

import sys

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

__all__ = ["fold_timm_norms", "plain_blocks", "plain_stems"]


def fold_timm_norms(model, fold):
    """Fold the batch norms of timm's ResNets into their convolutions, in place.

    Args:
        model (nn.Module): any; without such a backbone nothing happens.
        fold (callable): takes a convolution and its norm, and folds the latter into the former.
    """
    for owner, conv_name, norm_name in _pairs(model):
        conv, norm = getattr(owner, conv_name, None), getattr(owner, norm_name, None)
        # A norm with an activation is of another type.
        if type(conv) is nn.Conv2d and type(norm) in (nn.BatchNorm2d, FrozenBatchNorm2d):
            fold(conv, norm)
            setattr(owner, norm_name, nn.Identity())


def plain_blocks(model):
    """Residual blocks of timm's ResNets that do the same as detectron2's, after
    :func:`fold_timm_norms`.

    Args:
        model (nn.Module): any.

    Returns:
        list[tuple[nn.Module, list[nn.Conv2d]]]: each block, and its convolutions in their order,
        with a ReLU after each, the last after the sum with its ``downsample``.
    """
    found = []
    for block in filter(_is_block, model.modules()):
        convs = [getattr(block, f"conv{i}", None) for i in (1, 2, 3)]
        convs = [conv for conv in convs if conv is not None]
        norms = [getattr(block, f"bn{i + 1}") for i in range(len(convs))]
        acts = [getattr(block, f"act{i + 1}") for i in range(len(convs))]
        between = [getattr(block, name, None) for name in ("aa", "drop_block", "se")]
        if (
            all(type(conv) is nn.Conv2d and conv.padding_mode == "zeros" for conv in convs)
            and all(isinstance(norm, nn.Identity) for norm in norms)
            and all(isinstance(act, nn.ReLU) for act in acts)
            and all(x is None or isinstance(x, nn.Identity) for x in between)
        ):
            found.append((block, convs))
    return found


def plain_stems(model):
    """The networks (list[nn.Module]) of timm's ResNets that begin with one convolution, ``conv1``,
    and a ReLU, ``act1``, after :func:`fold_timm_norms`."""
    return [
        module
        for module in filter(_has_blocks, model.modules())
        if type(getattr(module, "conv1", None)) is nn.Conv2d
        and isinstance(getattr(module, "bn1", None), nn.Identity)
        and isinstance(getattr(module, "act1", None), nn.ReLU)
    ]


def _has_blocks(module):
    return any(_is_block(x) for stage in module.children() for x in stage.children())


def _is_block(module):
    # Without timm's ResNets in memory there is no such block.
    resnets = sys.modules.get("timm.models.resnet")
    return resnets is not None and type(module) in (resnets.BasicBlock, resnets.Bottleneck)


def _pairs(model):
    """Owner, and names in it, of each convolution and the norm that follows it."""
    for module in model.modules():
        if _is_block(module):
            yield from ((module, f"conv{i}", f"bn{i}") for i in (1, 2, 3))
            if isinstance(module.downsample, nn.Sequential) and len(module.downsample) == 2:
                yield module.downsample, "0", "1"
        elif _has_blocks(module):
            yield module, "conv1", "bn1"  # the stem

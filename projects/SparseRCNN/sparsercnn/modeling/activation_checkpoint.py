"""Trade time for memory: recompute activations in the backward pass."""

import torch
from detectron2.layers import CNNBlockBase
from torch.utils.checkpoint import checkpoint

from .head import Stage

__all__ = ["checkpoint_activations"]


def checkpoint_activations(model, *, backbone=False, head=False):
    """Make a model recompute, in place; its weights' names and its results stay the same.

    Args:
        model (nn.Module): a detector.
        backbone (bool): recompute each residual block of ``model.backbone``.
        head (bool): recompute each :class:`~sparsercnn.modeling.head.Stage`.

    Raises:
        ValueError: the model has nothing of the kind.
    """
    if backbone:
        _checkpoint_all(model.backbone, CNNBlockBase, "MODEL.ACTIVATION_CHECKPOINT.BACKBONE")
    if head:
        _checkpoint_all(model, Stage, "MODEL.ACTIVATION_CHECKPOINT.HEAD")


def _checkpoint_all(model, module_type, key):
    modules = [module for module in model.modules() if isinstance(module, module_type)]
    if not modules:
        raise ValueError(
            f"{key} is on, but the model has no {module_type.__name__} to apply it to."
        )
    for module in modules:
        module.forward = _Checkpointed(module.forward)


class _Checkpointed:
    """A forward method that keeps its inputs alone for the backward pass."""

    def __init__(self, forward):
        self.forward = forward

    def __call__(self, *args):
        if not torch.is_grad_enabled():
            return self.forward(*args)
        return checkpoint(self.forward, *args, use_reentrant=False)

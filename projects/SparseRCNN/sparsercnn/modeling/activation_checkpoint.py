"""Activation checkpointing: recompute activations in the backward pass to save memory."""

import contextlib

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError
from .backbones.layers import blocks_of
from .head import Stage
from .masks import MaskBranch

__all__ = ["checkpoint_activations"]


def checkpoint_activations(model, *, backbone=False, head=False):
    """Enable recomputation in a model, in place; weight names and results stay the same.

    Args:
        model (nn.Module): a detector.
        backbone (bool): recompute each residual block of ``model.backbone``.
        head (bool): recompute each :class:`~sparsercnn.modeling.head.Stage`, and each mask head.

    Raises:
        ConfigError: the model has no such block or stage.
    """
    if backbone:
        blocks = blocks_of(model.backbone)
        _checkpoint_all(blocks, "residual block", "MODEL.ACTIVATION_CHECKPOINT.BACKBONE")
    if head:
        stages = [module for module in model.modules() if isinstance(module, Stage)]
        _checkpoint_all(stages, "Stage", "MODEL.ACTIVATION_CHECKPOINT.HEAD")
        for branch in [x for x in model.modules() if isinstance(x, MaskBranch)]:
            for mask_head in branch.mask_head:
                mask_head.forward = _Checkpointed(mask_head)


def _checkpoint_all(modules, kind, key):
    if not modules:
        raise ConfigError(f"{key} is on, but the model has no {kind} to apply it to.")
    for module in modules:
        module.forward = _Checkpointed(module)


class _Checkpointed:
    """A forward method that keeps only its inputs for the backward pass."""

    def __init__(self, module):
        self.forward = module.forward
        self.batch_norms = [x for x in module.modules() if isinstance(x, _BatchNorm)]

    def __call__(self, *args):
        if not torch.is_grad_enabled():
            return self.forward(*args)
        return checkpoint(self._pass, *args, use_reentrant=False, context_fn=self._contexts)

    def _pass(self, *args):
        # HRNet's blocks overwrite the maps in the list that they are given.
        return self.forward(*(list(x) if isinstance(x, list) else x for x in args))

    def _contexts(self):
        """Contexts of the forward pass and of its recomputation."""
        return contextlib.nullcontext(), self._without_statistics()

    @contextlib.contextmanager
    def _without_statistics(self):
        # The first pass has updated the running mean and variance; recomputation must not.
        tracking = [x for x in self.batch_norms if x.training and x.track_running_stats]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in tracking]
        for norm in tracking:
            norm.momentum = 0.0
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(tracking, before, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, count

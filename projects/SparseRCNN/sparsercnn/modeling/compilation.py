"""Compilation of the parts of a model that gain from it, for training alone."""

import torch

from ..errors import ConfigError
from .backbones import TimmBackbone, ViT
from .backbones.layers import blocks_of
from .head import Stage

__all__ = ["compile_for_training"]

_MAX_VARIANTS = 64  # of one method's code; beyond, PyTorch runs it uncompiled. Its default is 8.


def compile_for_training(model, *, blockwise=False):
    """Compile backbone with neck, and each stage of a head, in place, when they are first used.

    Names of weights stay. In evaluation the parts run as they are: its sizes and its mode would
    need compiled code of their own, and results should not depend on how a model was trained.

    Proposals, matching and losses are left out: the Hungarian matching is SciPy's, the shapes of
    the targets change with every batch, and together they are a few small operations. So is the
    pooling, whose kernels a compiler cannot look into.

    Args:
        model (nn.Module): a detector or a segmentor, with a ``backbone``.
        blockwise (bool): compile residual blocks instead of the whole backbone, for activation
            checkpointing, which must hold each of them by itself.

    Raises:
        ConfigError: torch.compile does not work on this machine, or not with the backbone.
    """
    if isinstance(getattr(model.backbone, "bottom_up", model.backbone), TimmBackbone | ViT):
        # PyTorch 2.11's code generator cannot compare sizes that are divided by that of a patch.
        raise ConfigError(
            "SOLVER.COMPILE is True, but torch.compile fails on models of timm and plain ViTs for "
            "images of any size. Set it to False."
        )
    _require_compiler(next(model.parameters()).device)
    # Blocks share their code, but not the numbers of channels, each of which is compiled for.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MAX_VARIANTS)
    parts = blocks_of(model.backbone) if blockwise else [model.backbone]
    for module in parts + [x for x in model.modules() if isinstance(x, Stage)]:
        module.forward = _CompiledInTraining(module)


class _CompiledInTraining:
    """A forward method that runs compiled code if its module is in training mode."""

    def __init__(self, module):
        self.module = module
        self.forward = module.forward
        self.compiled = None

    def __call__(self, *args):
        if not self.module.training:
            return self.forward(*args)
        if self.compiled is None:
            # Dynamic from the start: the code depends little on which size comes first. Otherwise
            # it would be compiled for the first one alone, and again when another comes.
            self.compiled = torch.compile(self.forward, dynamic=True)
        return self.compiled(*args)

    def __getstate__(self):
        # Compiled code belongs to this module; a copy compiles its own.
        return {**self.__dict__, "compiled": None}


def _require_compiler(device):
    """Raise ConfigError unless a function of one operation can be compiled for `device`."""
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except (ImportError, OSError, RuntimeError) as error:
        first_line = str(error).strip().partition("\n")[0]
        needed = "Triton" if device.type == "cuda" else "a C++ compiler, such as g++,"
        raise ConfigError(
            f"SOLVER.COMPILE is True, but torch.compile fails on this machine: {first_line} "
            f"Install {needed} or set SOLVER.COMPILE to False."
        ) from error

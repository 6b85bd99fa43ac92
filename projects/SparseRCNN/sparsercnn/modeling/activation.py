"""Activation functions by their name in a config."""

import torch.nn.functional as F

from ..errors import ConfigError

__all__ = ["get_activation"]

_ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


def get_activation(name):
    """
    Args:
        name (str): relu or gelu.

    Returns:
        callable: elementwise function of a tensor.

    Raises:
        ConfigError: unknown name.
    """
    if name not in _ACTIVATIONS:
        raise ConfigError(
            f"MODEL.SparseRCNN.ACTIVATION must be one of {sorted(_ACTIVATIONS)}, got '{name}'."
        )
    return _ACTIVATIONS[name]

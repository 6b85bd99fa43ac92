"""Activation functions by name, and initialisation shared by the head and its interactions."""

import torch.nn.functional as F
from torch import nn

from ..errors import ConfigError

__all__ = ["get_activation", "xavier_matrices"]

_ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


def get_activation(name):
    """callable: the elementwise function "relu" or "gelu"; a ConfigError for any other name."""
    if name not in _ACTIVATIONS:
        raise ConfigError(
            f"MODEL.SparseRCNN.ACTIVATION must be one of {sorted(_ACTIVATIONS)}, got '{name}'."
        )
    return _ACTIVATIONS[name]


def xavier_matrices(module):
    """Initialise a module's parameters of more than one dimension Xavier-uniform, in registration
    order. Biases and norms keep the initialisation of their layers."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)

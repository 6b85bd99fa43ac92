"""Initialisation shared by the head and its interactions."""

from torch import nn

__all__ = ["xavier_matrices"]


def xavier_matrices(module):
    """Initialise parameters of more than one dimension Xavier-uniform, in registration order.

    Biases and norms keep the initialisation of their layers.

    Args:
        module (nn.Module): changed in place, including its submodules.
    """
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)

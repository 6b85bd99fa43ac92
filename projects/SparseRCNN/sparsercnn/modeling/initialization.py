"""What the head and its interactions have in common when they initialise themselves."""

from torch import nn

__all__ = ["xavier_matrices"]


def xavier_matrices(module):
    """Draw all weights of more than one dimension by Xavier, in the order of registration.

    Biases and norms stay as their layers made them.

    Args:
        module (nn.Module): changed in place, with all that it holds.
    """
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)

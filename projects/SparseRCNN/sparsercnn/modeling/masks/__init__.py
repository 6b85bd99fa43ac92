"""Heads that draw the mask of each object."""

from .cascade import CascadeMaskROIHeads

__all__ = ["CascadeMaskROIHeads"]

"""RoI heads with masks."""

from .cascade import CascadeMaskROIHeads

__all__ = ["CascadeMaskROIHeads"]

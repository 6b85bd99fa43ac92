"""Former place of :mod:`sparsercnn.inference.predictor`, kept for existing imports."""

from ..inference.predictor import ImageError, Predictor

__all__ = ["ImageError", "Predictor"]

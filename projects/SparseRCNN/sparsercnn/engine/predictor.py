"""Where the predictor was before it moved to :mod:`sparsercnn.inference.predictor`."""

from ..inference.predictor import ImageError, Predictor

__all__ = ["ImageError", "Predictor"]

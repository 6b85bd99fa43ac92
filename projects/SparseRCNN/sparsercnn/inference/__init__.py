"""Prediction on images and videos, drawing, and writing of results."""

from .optimization import check_optimization, optimize, prepare_for_inference

__all__ = ["check_optimization", "optimize", "prepare_for_inference"]

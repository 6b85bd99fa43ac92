"""Sparse R-CNN and its variants as a detectron2 project.

Importing this package registers the models and the data sets with detectron2.
"""

from .config import add_sparsercnn_config
from .data import SparseRCNNDatasetMapper
from .engine.setup import get_config
from .inference.loading import load
from .inference.predictor import Predictor
from .modeling import SparseRCNN, SparseRCNNWithTTA

__all__ = [
    "Predictor",
    "SparseRCNN",
    "SparseRCNNDatasetMapper",
    "SparseRCNNWithTTA",
    "add_sparsercnn_config",
    "get_config",
    "load",
]
__version__ = "0.1.0"

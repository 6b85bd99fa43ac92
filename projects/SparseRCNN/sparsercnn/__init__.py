"""Sparse R-CNN and its variants as a detectron2 project.

The first use of a public name imports what it needs and registers the models and the data sets with
detectron2; so does the import of this package itself in a program that has imported detectron2
before. The command line, which has not, can then answer ``--help`` without waiting for PyTorch.
"""

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULES = {
    "add_sparsercnn_config": ".config",
    "SparseRCNNDatasetMapper": ".data",
    "get_config": ".engine.setup",
    "load": ".inference.loading",
    "Predictor": ".inference.predictor",
    "SparseRCNN": ".modeling",
    "SparseRCNNWithTTA": ".modeling",
}


def _register():
    """Import all modules with public names, which registers everything."""
    for name, module in _MODULES.items():
        globals()[name] = getattr(importlib.import_module(module, __name__), name)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _register()
    return globals()[name]


def __dir__():
    return sorted({*globals(), *__all__})


if "detectron2" in sys.modules:
    _register()

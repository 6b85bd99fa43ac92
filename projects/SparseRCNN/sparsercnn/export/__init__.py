"""Exported models: writing them (:mod:`sparsercnn.export.exporters`), and running them.

Only the packages of the format in question are needed, and asked for when it is used.
"""

from .metadata import ExportMetadata
from .runtimes import ExportedModel, load_exported, load_exported_for

__all__ = [
    "ExportMetadata",
    "ExportedModel",
    "load_exported",
    "load_exported_for",
]

"""Data sets and their loaders. Importing this module registers ``shapes`` and CrowdHuman."""

from ..errors import DataError
from .build import build_test_loader, build_train_loader, check_test_sets, count_train_images
from .classes import check_num_classes
from .dataset_mapper import SparseRCNNDatasetMapper
from .registration import register_crowdhuman, register_datasets
from .semseg_mapper import SemSegDatasetMapper
from .shapes_files import make_shapes, register_shapes
from .validation import leave_out_invalid

__all__ = [
    "DataError",
    "SemSegDatasetMapper",
    "SparseRCNNDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "check_num_classes",
    "check_test_sets",
    "count_train_images",
    "leave_out_invalid",
    "make_shapes",
    "register_crowdhuman",
    "register_datasets",
    "register_shapes",
]

register_shapes()
register_crowdhuman()

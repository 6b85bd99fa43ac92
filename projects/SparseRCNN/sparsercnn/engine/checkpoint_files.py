"""What a checkpoint says about its model, and which checkpoint of a run to use."""

import logging
import os

import detectron2
import torch
from torch import nn

from ..data.classes import describe_dataset
from ..errors import CheckpointError
from .checkpoint import SafeCheckpointer
from .run_folder import last_checkpoint
from .safetensors_files import is_safetensors, read_safetensors
from .serialization import read_pickle, read_torch_file

__all__ = ["describe_run", "find_weights", "is_exported", "read_metadata"]

_IN_ORDER = ("model_best.pth", "model_final.pth")
_EXPORTED = (".onnx", ".pt2", ".xml")


def describe_run(cfg):
    """What is saved with each checkpoint of a training, so that it can be used by itself.

    Args:
        cfg (CfgNode): the whole config; the first data set of TRAIN has been loaded.

    Returns:
        dict: plain values: "config_yaml", the config as text; "versions", of this package,
        detectron2 and PyTorch by name; and those of
        :func:`~sparsercnn.data.classes.describe_dataset`.
    """
    from .. import __version__  # the package imports this module

    versions = {"sparsercnn": __version__, "detectron2": detectron2.__version__}
    return {
        **describe_dataset(cfg.DATASETS.TRAIN[0]),
        "config_yaml": cfg.dump(),
        "versions": {**versions, "torch": str(torch.__version__)},
    }


def is_exported(path):
    """Whether a file of weights is a whole model for a runtime, by its name."""
    return os.fspath(path).lower().endswith(_EXPORTED)


def read_metadata(path, allow_unsafe=False):
    """Read what a checkpoint says about its model, without its weights if the format allows it.

    Args:
        path (str): a file or URL, of this project or another one; or an exported model.
        allow_unsafe (bool): load any pickle, which may run code.

    Returns:
        dict: see :func:`describe_run`; other projects have other keys, or none.

    Raises:
        CheckpointError: the file is missing, damaged or refused as unsafe.
    """
    if is_exported(path):
        from ..export import load_exported  # it imports this module's room

        metadata = load_exported(path).metadata
        return {**metadata.classes, "config_yaml": metadata.config}
    local_path = SafeCheckpointer(nn.Module(), allow_unsafe=allow_unsafe).local_file(path)
    if is_safetensors(local_path):
        content = read_safetensors(local_path, weights=False)
    elif local_path.endswith(".pkl"):
        content = read_pickle(local_path, allow_unsafe)
    else:
        content = read_torch_file(local_path, allow_unsafe, mmap=True)
    meta = content.get("meta")
    return meta if isinstance(meta, dict) else {}


def find_weights(folder):
    """Choose a checkpoint of a run: the best one, else the final one, else the last one.

    Args:
        folder (str): OUTPUT_DIR of the run.

    Returns:
        str: path of the file, which is also logged.

    Raises:
        CheckpointError: there is none.
    """
    paths = [*(os.path.join(folder, name) for name in _IN_ORDER), last_checkpoint(folder)]
    path = next(filter(os.path.isfile, paths), None)
    if path is None:
        raise CheckpointError(
            f"The folder {folder} has no checkpoint: neither {' nor '.join(_IN_ORDER)}, nor one "
            "named in last_checkpoint. Give the OUTPUT_DIR of a training, or a file."
        )
    logging.getLogger(__name__).info(f"Using {path}.")
    return path

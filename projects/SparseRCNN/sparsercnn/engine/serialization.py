"""Reading files of weights without running what they hold."""

import _codecs
import contextlib
import inspect
import io
import os
import pickle
import re
import types
import zipfile
from collections import OrderedDict

import numpy as np
import torch
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from ..errors import CheckpointError

__all__ = ["CheckpointError", "read_pickle", "read_torch_file"]

# What numpy's pickles call, wherever this version of numpy keeps it.
_reconstruct_array = np.zeros(0).__reduce__()[0]
_reconstruct_scalar = np.float64(0).__reduce__()[0]


class _RefusedGlobal(pickle.UnpicklingError):
    """A pickle asks for something that is not on the list; the argument is its name."""


def read_torch_file(path, allow_unsafe=False, mmap=False):
    """Read a file written by :func:`torch.save` into the host's memory.

    Args:
        path (str): a local file.
        allow_unsafe (bool): let the file run code, as pickles can. Otherwise it may hold tensors,
            numpy arrays and plain Python values alone.
        mmap (bool): map the file rather than read it, so that only the tensors that are used
            cost time and memory. The result must not outlive the file.

    Returns:
        dict: what the file holds.

    Raises:
        CheckpointError: the file is damaged, or holds what is refused, or is no dict.
    """
    is_zip = zipfile.is_zipfile(path)
    options = {"map_location": "cpu", "weights_only": not allow_unsafe}
    if mmap and is_zip and "mmap" in inspect.signature(torch.load).parameters:
        options["mmap"] = True
    try:
        with contextlib.nullcontext() if allow_unsafe else _numpy_allowed():
            data = torch.load(path, **options)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        if refused or is_zip:
            raise _refusal(path, refused[1] if refused else _last_reason(error)) from error
        raise _damage(path, _last_reason(error)) from error
    except Exception as error:  # a broken file raises nearly anything
        raise _damage(path, _last_reason(error)) from error
    return _require_dict(path, data)


def read_pickle(path, allow_unsafe=False):
    """Read a ``.pkl`` of weights, as the model zoos of Caffe2, Detectron and detectron2 have them.

    Args:
        path (str): a local file.
        allow_unsafe (bool): let the file run code, as pickles can. Otherwise it may hold numpy
            arrays, tensors, and plain Python values alone.

    Returns:
        dict: what the file holds.

    Raises:
        CheckpointError: the file is damaged, or holds what is refused, or is no dict.
    """
    unpickler = pickle.Unpickler if allow_unsafe else _RestrictedUnpickler
    with open(path, "rb") as file:
        try:
            # Python 2 wrote the files of the older zoos; latin1 reads its bytes unchanged.
            data = unpickler(file, encoding="latin1").load()
        except _RefusedGlobal as error:
            raise _refusal(path, str(error)) from error
        except OSError:
            raise
        except Exception as error:  # a broken file raises nearly anything
            raise _damage(path, _last_reason(error)) from error
    return _require_dict(path, data)


def _load_storage(data):
    """What ``torch.storage._load_from_bytes`` does for a pickled tensor, without its trust."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _allowed_globals():
    allowed = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _codecs.encode,  # bytes in protocol 2
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("torch.storage", "_load_from_bytes"): _load_storage,
    }
    # numpy 2 renamed `numpy.core`; a file has the name of the numpy that wrote it.
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = _reconstruct_array
        allowed[f"{core}.multiarray", "scalar"] = _reconstruct_scalar
        allowed[f"{core}.numeric", "_frombuffer"] = _array_from_buffer
    for plain in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set):
        allowed["builtins", plain.__name__] = allowed["__builtin__", plain.__name__] = plain
    return allowed


def _array_from_buffer(data, dtype, shape, order):
    """How pickle protocol 5 rebuilds an array."""
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)


class _RestrictedUnpickler(pickle.Unpickler):
    """Builds arrays, tensors and plain values, and refuses everything else."""

    _allowed = _allowed_globals()

    def find_class(self, module, name):
        try:
            found = self._allowed[module, name]
        except KeyError:
            raise _RefusedGlobal(f"{module}.{name}") from None
        if isinstance(found, types.FunctionType):
            # A pickle may set attributes on what it was given: let that be a throw-away.
            return lambda *args: found(*args)
        return found


def _numpy_allowed():
    """While this context is open, `weights_only` lets numeric arrays and scalars pass too."""
    if not hasattr(torch.serialization, "safe_globals"):  # before torch 2.5
        return contextlib.nullcontext()
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefdFD"}
    return torch.serialization.safe_globals(
        [_reconstruct_array, _reconstruct_scalar, np.ndarray, np.dtype, *dtypes]
    )


def _refusal(path, what):
    return CheckpointError(
        f"{path} is refused: it holds '{what}', which is neither a tensor nor a plain value and "
        "could run code on this machine. If you trust who made the file, load it with "
        "--allow-unsafe (allow_unsafe=True)."
    )


def _damage(path, reason):
    return CheckpointError(
        f"{path} is damaged, or is no file of weights: {reason}. Its size is "
        f"{os.path.getsize(path)} bytes; compare with the original and copy it again.",
        damaged=True,
    )


def _last_reason(error):
    """The line of torch's many that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Check the documentation", "("))]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")


def _require_dict(path, data):
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{path} holds a {type(data).__name__}, where a dict of weights was expected."
        )
    return data

"""Reading weight files without running code that they contain."""

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

# The functions that numpy's pickles call; their module depends on the version of numpy.
_reconstruct_array = np.zeros(0).__reduce__()[0]
_reconstruct_scalar = np.float64(0).__reduce__()[0]


class _RefusedGlobal(pickle.UnpicklingError):
    """A pickle refers to a name that is not allowed; the argument is that name."""


def read_torch_file(path, allow_unsafe=False, mmap=False):
    """Read a file written by :func:`torch.save` to the host's memory.

    Args:
        path (str): a local file.
        allow_unsafe (bool): let the file run code, as pickles can. False: only tensors, numpy
            arrays and plain Python values are allowed.
        mmap (bool): memory-map the file; only tensors that are used cost time and memory. The
            file must exist as long as the result is used.

    Returns:
        dict: the content of the file.

    Raises:
        CheckpointError: the file is damaged, is refused as unsafe, or holds no dict.
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
    """Read a ``.pkl`` of weights, as in the model zoos of Caffe2, Detectron and detectron2.

    Arguments, return value and errors are those of :func:`read_torch_file`.
    """
    unpickler = pickle.Unpickler if allow_unsafe else _RestrictedUnpickler
    with open(path, "rb") as file:
        try:
            # The older zoos were written by Python 2; latin1 keeps its bytes unchanged.
            data = unpickler(file, encoding="latin1").load()
        except _RefusedGlobal as error:
            raise _refusal(path, str(error)) from error
        except OSError:
            raise
        except Exception as error:  # a broken file raises nearly anything
            raise _damage(path, _last_reason(error)) from error
    return _require_dict(path, data)


def _load_storage(data):
    """``torch.storage._load_from_bytes``, for a pickled tensor, restricted to safe content."""
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
    # numpy 2 renamed `numpy.core`; a file contains the name from the numpy that wrote it.
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = _reconstruct_array
        allowed[f"{core}.multiarray", "scalar"] = _reconstruct_scalar
        allowed[f"{core}.numeric", "_frombuffer"] = _array_from_buffer
    for plain in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set):
        allowed["builtins", plain.__name__] = allowed["__builtin__", plain.__name__] = plain
    return allowed


def _array_from_buffer(data, dtype, shape, order):
    """Rebuild an array as pickle protocol 5 does."""
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)


class _RestrictedUnpickler(pickle.Unpickler):
    """Allows arrays, tensors and plain values, and refuses everything else."""

    _allowed = _allowed_globals()

    def find_class(self, module, name):
        try:
            found = self._allowed[module, name]
        except KeyError:
            raise _RefusedGlobal(f"{module}.{name}") from None
        if isinstance(found, types.FunctionType):
            # A pickle may set attributes on the function: return a disposable wrapper.
            return lambda *args: found(*args)
        return found


def _numpy_allowed():
    """Context in which `weights_only` also allows numeric arrays and scalars."""
    if not hasattr(torch.serialization, "safe_globals"):  # before torch 2.5
        return contextlib.nullcontext()
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefdFD"}
    return torch.serialization.safe_globals(
        [_reconstruct_array, _reconstruct_scalar, np.ndarray, np.dtype, *dtypes]
    )


def _refusal(path, what):
    return CheckpointError(
        f"{path} is refused: it holds '{what}', which is neither a tensor nor a plain value and "
        "could run code on this machine. If you trust the author of the file, load it with "
        "--allow-unsafe (allow_unsafe=True)."
    )


def _damage(path, reason):
    return CheckpointError(
        f"{path} is damaged or not a weights file: {reason}. Its size is "
        f"{os.path.getsize(path)} bytes; compare with the original and copy it again.",
        damaged=True,
    )


def _last_reason(error):
    """The line of torch's long message that gives the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Check the documentation", "("))]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")


def _require_dict(path, data):
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{path} holds a {type(data).__name__}; a dict of weights was expected."
        )
    return data

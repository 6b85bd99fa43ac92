"""Reading weight files without running code that they contain."""

import contextlib
import inspect
import os
import pickle
import re
import zipfile

import torch

from ..errors import CheckpointError
from .pickles import RefusedGlobal, load_plain_pickle
from .plain_arrays import stand_ins

__all__ = ["CheckpointError", "read_pickle", "read_torch_file"]

# A gigantic model has about 1 MiB; from there, a file can make Python objects of many times its
# size.
_MAX_PICKLE = 64 * 2**20


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
        if is_zip and not allow_unsafe:
            _check_archive(path)
        with contextlib.nullcontext() if allow_unsafe else _numpy_allowed():
            data = torch.load(path, **options)
    except (OSError, CheckpointError):
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
    with open(path, "rb") as file:
        try:
            # latin1: see load_plain_pickle.
            data = pickle.load(file, encoding="latin1") if allow_unsafe else load_plain_pickle(file)
        except RefusedGlobal as error:
            raise _refusal(path, str(error)) from error
        except OSError:
            raise
        except Exception as error:  # a broken file raises nearly anything
            raise _damage(path, _last_reason(error)) from error
    return _require_dict(path, data)


def _check_archive(path):
    """Refuse an archive that takes far more memory than it has on the disk."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    # PyTorch compresses nothing: together they are smaller than the file.
    unpacked, on_disk = sum(x.file_size for x in entries), os.path.getsize(path)
    if unpacked > on_disk:
        raise CheckpointError(
            f"{path} is refused: it would unpack to {unpacked:,} bytes from {on_disk:,}, and "
            "checkpoints of PyTorch are not compressed. If you trust the author of the file, load "
            "it with --allow-unsafe (allow_unsafe=True)."
        )
    for entry in entries:
        if entry.filename.endswith("data.pkl") and entry.file_size > _MAX_PICKLE:
            raise CheckpointError(
                f"{path} is refused: its data.pkl, which names the tensors, has "
                f"{entry.file_size:,} bytes, and no more than {_MAX_PICKLE:,} are read. If you "
                "trust the author of the file, load it with --allow-unsafe (allow_unsafe=True)."
            )


def _numpy_allowed():
    """Context in which `weights_only` also allows numeric arrays and scalars."""
    if not hasattr(torch.serialization, "safe_globals"):  # before torch 2.5
        return contextlib.nullcontext()
    return torch.serialization.safe_globals(list(stand_ins().values()))


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

"""A reader of pickles that allows numbers and plain values, and calls nothing else."""

import io
import pickle
from collections import OrderedDict
from struct import unpack

import torch
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from .plain_arrays import stand_ins

__all__ = ["RefusedGlobal", "load_plain_pickle"]


class RefusedGlobal(pickle.UnpicklingError):
    """A pickle refers to a name that is not allowed; the argument is that name."""


def load_plain_pickle(file):
    """Read a pickle of arrays, tensors and plain values.

    Args:
        file: open for reading bytes.

    Raises:
        RefusedGlobal: it refers to something else.
        Exception: nearly any, if it is damaged.
    """
    # The content is read at once: sizes that the pickle names are not believed.
    # The older zoos were written by Python 2; latin1 keeps its bytes unchanged.
    return _Unpickler(io.BytesIO(file.read()), encoding="latin1").load()


def _load_storage(data):
    """``torch.storage._load_from_bytes``, for a pickled tensor, restricted to safe content."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _encode(text, encoding):
    """Bytes, as protocol 2 has them."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedGlobal(f"_codecs.encode to {str(encoding)[:20]}")
    return text.encode("latin1")


def _from_content(kind):
    def make(*args):
        # From a number, bytes() would take as much memory as the file asks for.
        if args and not isinstance(args[0], (bytes, str)):
            raise RefusedGlobal(f"builtins.{kind.__name__} of a number")
        return kind(*args)

    return make


_ALLOWED = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.storage._load_from_bytes": _load_storage,
    **stand_ins(),
}
for _module in ("builtins", "__builtin__"):
    _ALLOWED |= {f"{_module}.{kind.__name__}": kind for kind in (set, complex)}
    _ALLOWED |= {f"{_module}.{kind.__name__}": _from_content(kind) for kind in (bytes, bytearray)}


def _load_bytearray8(unpickler):
    (size,) = unpack("<Q", unpickler.read(8))
    unpickler.append(bytearray(unpickler.read(size)))


# Not the unpickler in C: that takes memory by sizes and numbers that the file names.
class _Unpickler(pickle._Unpickler):
    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray8}  # noqa: RUF012

    def find_class(self, module, name):
        try:
            found = _ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise RefusedGlobal(f"{module}.{name}") from None
        # A pickle may set attributes on a function: return a disposable wrapper.
        return found if isinstance(found, type) else lambda *args: found(*args)

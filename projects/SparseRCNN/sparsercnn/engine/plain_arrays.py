"""Numpy's arrays and scalars in pickles, rebuilt without letting the file say how.

A pickle of an array calls functions of numpy, and sets the state of a `numpy.dtype`. Numpy checks
neither: a changed state ends the process, or makes pointers of numbers in the file. What is here
stands for these functions and classes, takes plain types of numbers only, and checks every size.
"""

import math
from pickle import UnpicklingError

import numpy as np

__all__ = ["PlainArray", "PlainDtype", "stand_ins"]

_NAMES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}


class PlainDtype:
    """Stands for ``numpy.dtype``; ``value`` is the real one."""

    def __init__(self, name, align=False, copy=False):
        if not isinstance(name, str) or name not in _NAMES:
            raise UnpicklingError("an array of another type than bool, int, float or complex")
        self.value = np.dtype(name)

    def __setstate__(self, state):
        order = state[1] if isinstance(state, tuple) and len(state) == 8 else None
        if order not in ("<", ">", "|", "=") or state[::7] != (3, 0) or state[2:7] != _PLAIN_STATE:
            raise UnpicklingError("an array whose type has a changed state")
        self.value = self.value.newbyteorder(order)


_PLAIN_STATE = (None, None, None, -1, -1)  # no subtype, names, fields, size or alignment


class PlainArray(np.ndarray):
    """Stands for ``numpy.ndarray``, and is one."""

    def __new__(cls, *_):
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnpicklingError("an array whose state is not that of an array")
        _, shape, dtype, is_fortran, data = state
        flat = _read(data, dtype, shape)
        order = bool(is_fortran)
        super().__setstate__((1, shape, flat.dtype, order, flat.tobytes()))


def stand_ins():
    """What a pickle of numbers may name of numpy.

    Returns:
        dict[str, callable]: by dotted name. A class among them has that name itself, by which
        PyTorch knows what it may call.
    """
    found = {"numpy.dtype": PlainDtype, "numpy.ndarray": PlainArray}
    # numpy 2 renamed `numpy.core`; a file contains the name from the numpy that wrote it.
    for core in ("numpy.core", "numpy._core"):
        for name, function in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        ):
            found[f"{core}.{name}"] = _renamed(function, f"{core}.{name}")
    return found


PlainDtype.__module__, PlainDtype.__qualname__ = "numpy", "dtype"
PlainArray.__module__, PlainArray.__qualname__ = "numpy", "ndarray"


def _renamed(function, path):
    # A pickle may set attributes on a function: it gets one that nobody else uses.
    def stand_in(*args):
        return function(*args)

    stand_in.__module__, _, stand_in.__qualname__ = path.rpartition(".")
    return stand_in


def _reconstruct(subtype, shape, dtype):
    return PlainArray()  # the rest follows as its state


def _scalar(dtype, data):
    return _read(data, dtype, ())[0]


def _from_buffer(data, dtype, shape, order):
    """As pickle protocol 5 has an array."""
    if order not in ("C", "F"):
        raise UnpicklingError("an array in an unknown order")
    return _read(data, dtype, shape).reshape(shape, order=order)


def _read(data, dtype, shape):
    """The numbers of an array of this shape (array of one dimension), in this machine's order."""
    if isinstance(data, str):  # of Python 2, whose bytes are read as latin1
        data = data.encode("latin1")
    is_shape = isinstance(shape, tuple) and all(type(x) is int and x >= 0 for x in shape)
    if not isinstance(dtype, PlainDtype) or not isinstance(data, (bytes, bytearray)):
        raise UnpicklingError("an array of something else than numbers")
    if not is_shape or math.prod(shape) * dtype.value.itemsize != len(data):
        raise UnpicklingError("an array whose shape does not fit its content")
    flat = np.frombuffer(data, dtype.value)
    return flat.astype(dtype.value.newbyteorder("="))  # a copy, which can be written to

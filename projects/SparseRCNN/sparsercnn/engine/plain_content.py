"""What goes into a checkpoint: plain values and tensors, which load without trust."""

import numpy as np
import torch

__all__ = ["contiguous", "num_bytes", "plain"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, torch.Size, torch.dtype)


def num_bytes(content):
    """Of all tensors in nested containers."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    items = content.values() if isinstance(content, dict) else content
    return sum(map(num_bytes, items)) if isinstance(content, (dict, list, tuple)) else 0


def contiguous(state_dict):
    """The state dict, whose metadata is kept, with all tensors laid out in memory in the order of
    their dimensions, whatever the model trained with: programs that read raw memory expect it."""
    for name, value in state_dict.items():
        if isinstance(value, torch.Tensor):
            state_dict[name] = value.contiguous()
    return state_dict


def plain(value, where, unsafe):
    """Convert subclasses of containers and numpy scalars to plain values of the same content, and
    tensors to contiguous ones.

    A line for each value that will be refused on loading is added to `unsafe`.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor):
        return value.detach().contiguous()
    if isinstance(value, dict):
        return {plain(k, where, unsafe): plain(v, f"{where}.{k}", unsafe) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        items = [plain(v, f"{where}.{i}", unsafe) for i, v in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return np.asarray(value)
    if not isinstance(value, _PLAIN):
        unsafe.append(f"{where} ({type(value).__module__}.{type(value).__qualname__})")
    return value

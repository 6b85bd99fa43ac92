"""From a file of weights to another."""

import os

import torch

from ..engine.serialization import read_pickle, read_torch_file
from ..errors import ConversionError
from ..files import write_atomically
from .layouts import LAYOUTS
from .rules import convert

__all__ = ["convert_file", "read_weights"]

# Keys of the weights in the files of mmdetection, detectron2 and timm.
_WEIGHTS = ("state_dict", "model")
# What else such files hold, and what a file of weights alone has no place for.
_LEFT_OUT = {
    "__author__", "amp", "arch", "args", "epoch", "iteration", "lr_scheduler",
    "matching_heuristics", "message_hub", "meta", "metric", "optimizer", "param_schedulers",
    "scaler", "scheduler", "trainer", "version",
}  # fmt: skip


def convert_file(
    source,
    target,
    layout,
    *,
    backbone="backbone.bottom_up.",
    mask_stage=None,
    only=(),
    reverse=False,
    allow_unsafe=False,
):
    """Convert a file of weights into one for our models, ``{"model": weights}``.

    Args:
        source (str): a ``.pth`` or ``.pkl`` file.
        target (str): the ``.pth`` file to write.
        layout (str): a name in LAYOUTS, the code base whose names the weights have.
        backbone (str): what the names of our backbone begin with: "backbone.bottom_up." below a
            neck, "backbone." without. For ResNets alone.
        mask_stage (int): which mask head of a cascade to take, 0 to 2, for a model that has one;
            None: all.
        only (iterable[str]): convert only weights whose names begin with one of these; (): all.
        reverse (bool): from our names to those of the layout.
        allow_unsafe (bool): load any pickle; it may run code.

    Returns:
        Converted: what was written, and how much was left out, and why.

    Raises:
        CheckpointError: the source is damaged, or holds what is refused.
        ConversionError: no rule covers some of the weights, or something else in the file; or
            there are no weights. Nothing is written.
        OSError: a file cannot be read or written.
    """
    weights = read_weights(source, allow_unsafe)
    kept = {k: v for k, v in weights.items() if not only or k.startswith(tuple(only))}
    if not kept:
        wanted = f" whose names begin with {' or '.join(only)}" if only else ""
        raise ConversionError(f"{source} has no weights{wanted}.", list(weights))
    rules = LAYOUTS[layout].rules(list(weights), backbone, mask_stage, list(kept))
    try:
        result = convert(kept, rules, reverse)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}", error.keys) from error
    if len(kept) < len(weights):
        result.dropped["not asked for"] += len(weights) - len(kept)
    section = LAYOUTS[layout].section if reverse else "model"
    data = {section: result.weights} if section else result.weights
    with write_atomically(target) as file:
        torch.save(data, file)
    return result


def read_weights(path, allow_unsafe=False):
    """The weights in a file, without the optimizer's state and other known company.

    Args:
        path (str): a ``.pth`` or ``.pkl`` file; a dict of weights, or one that has such a dict.
        allow_unsafe (bool): load any pickle; it may run code.

    Returns:
        dict[str, Tensor]:

    Raises:
        ConversionError: the file has parts of unknown meaning.
    """
    read = read_pickle if os.path.splitext(path)[1] == ".pkl" else read_torch_file
    data = read(path, allow_unsafe)
    section = next((key for key in _WEIGHTS if isinstance(data.get(key), dict)), None)
    weights = data if section is None else data[section]
    unknown = [key for key, value in weights.items() if not _is_array(value)]
    if section is not None:
        unknown += [key for key in data if key != section and key not in _LEFT_OUT]
    if unknown:
        raise ConversionError(
            f"{path} has parts of unknown meaning beside its weights: "
            f"{', '.join(map(str, unknown))}. Remove them from the file if they are not needed.",
            unknown,
        )
    return {key: torch.as_tensor(value).detach() for key, value in weights.items()}


def _is_array(value):
    return isinstance(value, torch.Tensor) or hasattr(value, "__array__")

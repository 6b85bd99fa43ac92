"""Weights in the format of safetensors, an optional dependency."""

import json

from ..errors import CheckpointError
from ..extras import require_extra

__all__ = ["is_safetensors", "read_safetensors", "write_safetensors"]

_META = "sparsercnn"  # in the file's texts, our metadata as json


def is_safetensors(path):
    """Whether a file is of this format, by its name."""
    return str(path).endswith(".safetensors")


def read_safetensors(path, weights=True):
    """Read a ``.safetensors`` file, in which nothing can run.

    Args:
        path (str): a local file.
        weights (bool): False: only the metadata.

    Returns:
        dict: "model", weights by name, {} without `weights`; and "meta", if the file is of this
        project, see :func:`~sparsercnn.engine.checkpoint_files.describe_run`.

    Raises:
        CheckpointError: the file is damaged, or the package safetensors is missing.
    """
    _require_package(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            model = {name: file.get_tensor(name) for name in file.keys()} if weights else {}  # noqa: SIM118, it is no dict
        meta = json.loads(texts.get(_META, "null"), object_hook=_as_saved)
    except OSError:
        raise
    except (SafetensorError, ValueError, RecursionError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file: {error}. Compare it with the original "
            "and copy it again.",
            damaged=True,
        ) from error
    return {"model": model, **({"meta": meta} if isinstance(meta, dict) else {})}


def write_safetensors(file, weights, meta):
    """Write weights to an open file, for :func:`read_safetensors` and other programs.

    Args:
        file: open for writing bytes.
        weights (dict[str, Tensor]): tensors that share memory are written once for each name.
        meta (dict): plain values that json can write, {} for none.

    Raises:
        CheckpointError: the package safetensors is missing.
    """
    _require_package(getattr(file, "name", "The file"))
    from safetensors.torch import save

    texts = {"format": "pt", **({_META: json.dumps(meta)} if meta else {})}
    file.write(save({k: v.detach().cpu().clone() for k, v in weights.items()}, texts))


def _as_saved(content):
    """A dict whose keys are all numbers, which json writes as texts."""
    numbers = all(key.isascii() and key.isdigit() and len(key) < 19 for key in content)
    return {int(key): value for key, value in content.items()} if numbers else content


def _require_package(path):
    try:
        require_extra("safetensors", "safetensors")
    except ImportError as error:
        raise CheckpointError(f"{path} is of the format safetensors: {error}") from error

"""Folders of data sets and of files derived from them."""

import contextlib
import hashlib
import json
import os

from ..files import write_atomically, write_json

__all__ = ["cache_folder", "cache_folders", "cache_json", "datasets_root", "write_json"]


def datasets_root():
    """The folder of all data sets: $DETECTRON2_DATASETS, or ``datasets``, as in detectron2."""
    return os.getenv("DETECTRON2_DATASETS", "datasets")


def cache_json(label, content):
    """Save `content` in the cache folder, under a name that contains a hash of it.

    Args:
        label (str): readable prefix of the file name.
        content: any value that :mod:`json` can write.

    Returns:
        str: path of the file.

    Raises:
        OSError: no folder is writable.
    """
    text = json.dumps(content)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = os.path.join(cache_folder(), f"{label}-{digest}.json")
    if not os.path.exists(path):
        with write_atomically(path, "w") as file:
            file.write(text)
    return path


def cache_folders():
    """Where to look for files derived from data sets (list[str]), existing folders or not:
    ``.cache`` beside the data sets, then the user's cache folder."""
    user_cache = os.getenv("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folders = [os.path.join(user_cache, "sparsercnn")]
    if os.path.isdir(datasets_root()):
        folders.insert(0, os.path.join(datasets_root(), ".cache"))
    return folders


def cache_folder():
    """The first of :func:`cache_folders` that is writable; it is made if necessary.

    Raises:
        OSError: none is writable.
    """
    for folder in cache_folders():
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    raise OSError(
        f"No writable folder for converted annotations: tried {' and '.join(cache_folders())}. "
        "Set DETECTRON2_DATASETS to an existing folder that is writable."
    )

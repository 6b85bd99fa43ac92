"""COCO files, read once: what is read of them is kept for later starts and other processes."""

import codecs
import io
import logging
import os
import stat
from functools import lru_cache

import numpy as np

from ..errors import DataError
from ..files import wait_for_lock, write_atomically
from .coco_index import DAMAGED, CocoIndex, build_index
from .coco_scan import IRREGULAR, scan_coco, scan_content
from .coco_schema import read_coco
from .files import cache_folder, cache_folders, content_hash, read_bytes

__all__ = ["completed_copy", "open_coco"]

_VERSION = 2  # of what is kept: increasing it makes every machine read its files again
_WORTH_KEEPING = 16 * 2**20  # bytes; smaller files are read in a moment


def open_coco(path):
    """Read a COCO file, or what an earlier start has kept of it.

    A large file is kept in the cache folder, under a hash of its content. Of several processes that
    start at once, one reads it while the others wait. What is kept are json and plain arrays, which
    cannot run code.

    Args:
        path (str): a local file.

    Returns:
        CocoIndex: its lines are mapped from the cache folder, so that all processes of the machine
        share the memory that they take. If the file is small, or no folder is writable, they are in
        the memory of this process.

    Raises:
        MissingFileError, DataError: see :func:`~sparsercnn.data.coco_schema.read_coco`.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        read_coco(path)  # it says what is wrong
        raise
    if not stat.S_ISREG(status.st_mode):
        read_bytes(path)
    return _open(path, status.st_size, status.st_mtime_ns)


def completed_copy(path):
    """A copy of a COCO file with the fields that pycocotools needs for evaluation but many lack.

    Args:
        path (str): as for :func:`open_coco`.

    Returns:
        str: a file in the cache folder, in which a missing "iscrowd" is 0 and a missing "area" is
        the area of the box.

    Raises:
        OSError: no folder is writable.
    """
    name = f"{_name(path)}.json"
    for folder in cache_folders():
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    copy = os.path.join(cache_folder(), name)
    _write(copy, _scan(path).completed())
    return copy


@lru_cache(maxsize=4)  # registration, checks and loaders of a process need the same ones
def _open(path, num_bytes, modified):
    if num_bytes < _WORTH_KEEPING:
        return _in_memory(path)
    name = _name(path)
    index = _find(name)
    if index is not None:
        return index
    try:
        base = os.path.join(cache_folder(), name)
        with open(f"{base}.lock", "w") as lock:
            wait_for_lock(lock)
            index = _find(name)  # another process may have read it
            if index is None:
                _keep(path, base)
                index = CocoIndex.load(f"{base}.npz", f"{base}.jsonl")
        return index
    except OSError as error:
        logging.getLogger(__name__).warning(
            f"{path} is read at every start and by every process, as it cannot be kept: {error}"
        )
        return _in_memory(path)


def _find(name):
    """What is kept under this name, or None."""
    for folder in cache_folders():
        base = os.path.join(folder, name)
        try:
            return CocoIndex.load(f"{base}.npz", f"{base}.jsonl")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except DAMAGED as error:
            logging.getLogger(__name__).warning(f"{base}.npz is damaged, and not used: {error}")
    return None


def _keep(path, base):
    logging.getLogger(__name__).info(f"Reading {path}, to keep it in {base}.jsonl ...")
    scan = _scan(path)
    if not base.endswith(_name(path)):
        raise DataError(f"{path} was changed while it was read. Start again.")
    with write_atomically(f"{base}.jsonl") as lines:
        index = build_index(scan, lines)
    if scan.defaults or scan.marked:
        _write(f"{base}.json", scan.completed())
    index.save(f"{base}.npz")  # last: it stands for the others


def _in_memory(path):
    lines = io.BytesIO()
    index = build_index(_scan(path), lines)
    index.lines = np.frombuffer(lines.getbuffer(), np.uint8)
    return index


def _scan(path):
    text = read_bytes(path)
    marked = text.startswith(codecs.BOM_UTF8)
    try:
        scan = scan_coco(text.removeprefix(codecs.BOM_UTF8))
    except IRREGULAR:
        scan = scan_content(read_coco(path))  # which mostly says what is wrong
    scan.marked = marked
    return scan


def _write(path, text):
    with write_atomically(path) as file:
        file.write(text)


def _name(path):
    """Name of what is kept of a file, without suffix: it ends in a hash of the content."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return f"coco-{stem}-{content_hash(path, f'{_VERSION} ')}"

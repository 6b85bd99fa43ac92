"""Text files of data sets, their folders, and files derived from them."""

import codecs
import contextlib
import hashlib
import json
import os
from pathlib import Path

from ..errors import DataError, MissingFileError
from ..files import open_regular, write_atomically, write_json

__all__ = [
    "UTF_16",
    "cache_folder",
    "cache_folders",
    "cache_json",
    "content_hash",
    "datasets_root",
    "files_below",
    "read_bytes",
    "read_text",
    "write_json",
]

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32 begins with one of them, or a 0


def read_bytes(path):
    """
    Args:
        path (str): a local file.

    Returns:
        bytes: its content.

    Raises:
        MissingFileError: there is no such file.
        DataError: it cannot be read, or is no regular file.
    """
    with _opened(path) as file:
        return file.read()


@contextlib.contextmanager
def _opened(path):
    try:
        with open_regular(path) as file:
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"{path} does not exist. Correct the path.") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = os.strerror(error.errno) if getattr(error, "errno", None) else error
        raise DataError(f"{path} cannot be read: {reason}. Give a readable file.") from error


def read_text(path):
    """
    Args:
        path (str): a local file in UTF-8, which may begin with a byte-order mark.

    Returns:
        str: its content, without the mark.

    Raises:
        DataError: see :func:`read_bytes`; or it is in another encoding.
    """
    content = read_bytes(path)
    if content.startswith(UTF_16) or b"\0" in content[:4]:
        raise DataError(f"{path} is in UTF-16 or UTF-32. Save it in UTF-8.")
    try:
        return content.decode("utf-8-sig")  # a TextIOWrapper takes five times as long
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8: {error}. Save it in UTF-8.") from error


def files_below(root, leave_out=None):
    """List the files of a folder and of its subfolders, linked ones too.

    Args:
        root (str | Path): the folder.
        leave_out (str | Path): a folder inside that is not entered; None, or `root` itself: none.

    Returns:
        list[Path]: sorted, files before subfolders; without what is hidden, whose name begins with
        a dot. A folder that is reached by several paths is listed once, by the one without links.
    """
    found, places = [], [root]
    seen = ({os.path.realpath(leave_out)} if leave_out else set()) - {os.path.realpath(root)}
    for top in places:  # it grows: links are entered after everything that needs none
        for place, folders, names in os.walk(top):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(x for x in folders if not x.startswith("."))
            places += filter(os.path.islink, (os.path.join(place, x) for x in folders))
            found.append((Path(place), sorted(x for x in names if not x.startswith("."))))
    return [place / name for place, names in sorted(found) for name in names]


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


def content_hash(path, prefix=""):
    """A hash (str) of a file's content, after a text that is hashed first.

    Raises:
        MissingFileError, DataError: see :func:`read_bytes`.
    """
    digest = hashlib.sha256(prefix.encode())
    with _opened(path) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]


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

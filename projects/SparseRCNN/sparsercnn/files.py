"""Reading of regular files alone, atomic writing, and locks."""

import contextlib
import fcntl
import json
import os
import re
import stat
import uuid
from shutil import SpecialFileError

__all__ = [
    "open_regular",
    "remove_leftovers",
    "try_lock",
    "wait_for_lock",
    "write_atomically",
    "write_json",
]

_LEFTOVER = re.compile(r".+\.[0-9a-f]{32}\.tmp")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path):
    """Open a file for reading bytes, if it is one: a pipe would wait for somebody who writes, and
    a device may never end.

    Args:
        path (str | Path): a local file, or a link to one.

    Returns:
        file: open.

    Raises:
        OSError: it cannot be opened, or is no regular file (:class:`shutil.SpecialFileError`).
    """
    # Without O_NONBLOCK, opening a pipe waits already.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no file")
            raise SpecialFileError(f"it is {kind}, and only regular files are read")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


@contextlib.contextmanager
def write_atomically(path, mode="wb"):
    """Open a temporary file that replaces `path` when the block ends without an error.

    Readers of `path` see the complete old or the complete new file, even after a crash. The name
    of the temporary file is unique, since other processes may write `path` at the same time, and
    ends in ``.tmp``, so that nothing mistakes it for a checkpoint.

    Args:
        path (str): a local file, existing or not, in an existing folder.
        mode (str): "wb" or "w".

    Yields:
        file: the open temporary file.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def remove_leftovers(folder):
    """Delete what killed processes have left of :func:`write_atomically`.

    Args:
        folder (str): one that no other process writes to.
    """
    for name in os.listdir(folder):
        if _LEFTOVER.fullmatch(name):
            with contextlib.suppress(OSError):  # of others; it is only in the way
                os.remove(os.path.join(folder, name))


def write_json(path, content, indent=None):
    """Write `content` to `path`, all at once. Many processes may write the same path at once.

    Args:
        path (str): a local file in an existing folder.
        content: what :mod:`json` can write.
        indent (int): see :func:`json.dumps`.
    """
    text = json.dumps(content, indent=indent)
    with write_atomically(path, "w") as file:
        file.write(text)


def try_lock(file, shared=False):
    """Lock an open file, until the last process that has it open closes it.

    Args:
        file: as :func:`open` gives it.
        shared (bool): let others have it at the same time that ask for no more than that, too.

    Returns:
        bool: False if another process has it.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file):
    """:func:`try_lock`, but wait until no other process has it.

    Raises:
        OSError: the file system has no locks.
    """
    fcntl.flock(file, fcntl.LOCK_EX)

"""Files that appear all at once or not at all, and files that one process has to itself."""

import contextlib
import fcntl
import json
import os
import uuid

__all__ = ["try_lock", "write_atomically", "write_json"]


@contextlib.contextmanager
def write_atomically(path, mode="wb", shared=False):
    """Open a temporary file that takes the place of `path` when the block ends without an error.

    Whoever opens `path` meanwhile, or after a crash, finds the old file or the new one, whole.
    The temporary's name ends in ``.tmp``, which no one takes for a checkpoint.

    Args:
        path (str): a local file, existing or not, in an existing folder.
        mode (str): "wb" or "w".
        shared (bool): other processes may write `path` at the same time, so that the temporary
            needs a name of its own. False: its name is made from `path`, and a run that is
            repeated after being killed reuses what it left.

    Yields:
        the open temporary file.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp" if shared else f"{path}.tmp"
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


def write_json(path, content, indent=None):
    """Write `content` to `path`, all at once. Many processes may write the same path at once.

    Args:
        path (str): a local file in an existing folder.
        content: what :mod:`json` can write.
        indent (int): see :func:`json.dumps`.
    """
    text = json.dumps(content, indent=indent)
    with write_atomically(path, "w", shared=True) as file:
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

"""The folder of a run, OUTPUT_DIR: one process at a time has it, and runs do not mix in it."""

import contextlib
import fcntl
import glob
import itertools
import logging
import os
import platform
import re
import shutil
import sys
import time

import yaml
from detectron2.utils import comm

from ..errors import ConfigError, abbreviate
from ..files import remove_leftovers
from .overrides import differences, flatten

__all__ = [
    "LATEST",
    "changed_keys",
    "find_checkpoints",
    "last_checkpoint",
    "lock_folder",
    "move_run_aside",
    "open_run_folder",
    "remove_latest",
]

LATEST = "model_latest"  # without extension; written between the periodic ones, see run_hooks.py
_LOCK = "train.lock"
_TAG = "last_checkpoint"
_NUMBERED = re.compile(r"model_(\d{7,})\.pth")
# What a run writes, the name of its last checkpoint last: until that is moved, --resume does not
# start anew beside the rest.
_FILES = (
    "log.txt*", "metrics.json", "metrics.csv", "events.out.tfevents.*", "trackers.json",
    "environment.txt", "inference", "TTA", "non_finite", "model_best.json", "model_*.pth", _TAG,
)  # fmt: skip
_held = {}  # path of a lock -> its open file; closing any other of that path would give it up


def find_checkpoints(folder):
    """The checkpoints of the run in a folder, which a new one must not mix with.

    Args:
        folder (str): OUTPUT_DIR, existing or not.

    Returns:
        list[str]: names of its checkpoints, the numbered ones in their order; empty if there is no
        run, or one that was ended before it wrote a checkpoint: nothing of that is worth keeping.
    """
    return sorted(os.path.basename(x) for x in glob.glob(f"{glob.escape(folder)}/model_*.pth"))


def last_checkpoint(folder):
    """The checkpoint that ``--resume`` starts from.

    That is the one named in the file `last_checkpoint`. A run that was killed before it wrote that
    file has its first checkpoint alone.

    Args:
        folder (str): OUTPUT_DIR, existing or not.

    Returns:
        str: path of the file, which may be missing if `last_checkpoint` names it; "" if there is
        none.
    """
    tag = os.path.join(folder, _TAG)
    if os.path.isfile(tag):
        with open(tag, encoding="utf-8", errors="replace") as file:
            return os.path.join(folder, file.read().strip())
    numbered = [name for name in find_checkpoints(folder) if _NUMBERED.fullmatch(name)]
    name = numbered[-1] if numbered else f"{LATEST}.pth"
    path = os.path.join(folder, name)
    return path if os.path.isfile(path) else ""


def remove_latest(folder):
    """Delete the checkpoint between the periodic ones, when `model_final.pth` is there."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, f"{LATEST}.pth"))


def open_run_folder(folder, *, resume=False, overwrite=False, training=True):
    """Make a folder, lock it for this process, and see to it that no other run is in its way.

    All processes of a run call it at the same time; the main process does the work.

    Args:
        folder (str): OUTPUT_DIR; "" for none.
        resume (bool): a run in it will be continued.
        overwrite (bool): a run in it is moved aside.
        training (bool): False: only lock it.

    Raises:
        ConfigError: another process has it; or it holds a run, and neither `resume` nor
            `overwrite` is set. Raised by all processes.
        OSError: it cannot be made, or not be written to; raised by the main process.
    """
    if not folder:
        return
    message = ""
    if comm.is_main_process():
        try:
            os.makedirs(folder, exist_ok=True)
            lock_folder(folder)
            remove_leftovers(folder)
            if training:
                _make_room(folder, resume, overwrite)
        except ConfigError as error:
            message = str(error)
    message = comm.all_gather(message)[0]
    if message:
        raise ConfigError(message)


def _make_room(folder, resume, overwrite):
    if resume and overwrite:
        raise ConfigError(
            f"--resume goes on with the run in {folder} and --overwrite starts a new one in its "
            "place: give one of them."
        )
    found = find_checkpoints(folder)
    if found and overwrite:
        aside = move_run_aside(folder)
        logging.getLogger(__name__).info(f"The run that was in {folder} is now in {aside}.")
    elif found and not resume:
        raise ConfigError(
            f"OUTPUT_DIR {folder} holds a run: {abbreviate(found, limit=3)}. Add --resume to go on "
            "with it. For a new run, set another OUTPUT_DIR, or add --overwrite, which moves the "
            f"old run to {_aside(folder)}."
        )


def lock_folder(folder):
    """Lock a folder until this process ends, however it ends.

    The lock is the operating system's; it is not handed on to child processes. The file says who
    has it.

    Args:
        folder (str): an existing folder.

    Raises:
        ConfigError: another process has it.
    """
    path = os.path.realpath(os.path.join(folder, _LOCK))
    if path in _held and _is_same_file(_held[path], path):
        return
    file = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115, it stays open
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        holder = file.read(1000).strip() or "another process"
        file.close()
        raise ConfigError(
            f"OUTPUT_DIR {folder} is in use by {holder}. Wait until that has ended, end it, or set "
            "another OUTPUT_DIR."
        ) from None
    except OSError as error:
        logging.getLogger(__name__).warning(
            f"{folder} cannot be locked ({error}): its file system has no locks. Two runs in it "
            "at the same time would mix their checkpoints."
        )
    _held[path] = file
    since, command = time.strftime("%Y-%m-%d %H:%M:%S %z"), " ".join(sys.argv)[:300]
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}, since {since}: {command}")
    file.flush()


def _is_same_file(file, path):
    return os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(file.fileno()))


def move_run_aside(folder):
    """Move the files of a run to a folder ``previous_N`` in its folder.

    Args:
        folder (str): OUTPUT_DIR.

    Returns:
        str: path of the new folder. What other programs have put into `folder` stays.
    """
    aside = _aside(folder)
    os.mkdir(aside)
    config = os.path.join(folder, "config.yaml")
    if os.path.isfile(config):  # the new run may be made from it
        shutil.copy(config, aside)
    for pattern in _FILES:
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), pattern))):
            os.rename(path, os.path.join(aside, os.path.basename(path)))
    return aside


def _aside(folder):
    paths = (os.path.join(folder, f"previous_{i}") for i in itertools.count(1))
    return next(path for path in paths if not os.path.exists(path))


def changed_keys(then, now):
    """How the config of a resumed run differs from that which its checkpoint was trained with.

    Args:
        then (str): the checkpoint's config as text, see
            :func:`~sparsercnn.engine.checkpoint_files.describe_run`.
        now (str): the present one.

    Returns:
        list[str]: "KEY OLD -> NEW". OUTPUT_DIR is left out, since a folder can be moved, and so are
        keys that only one of the two has: another version of this project wrote it.
    """
    if then == now:  # parsing takes a while
        return []
    then, now = (dict(flatten(yaml.safe_load(text))) for text in (then, now))
    known = then.keys() & now.keys() - {"OUTPUT_DIR"}
    return differences(*({key: config[key] for key in known} for config in (then, now)))

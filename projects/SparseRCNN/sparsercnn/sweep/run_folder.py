"""What the folder of a run tells: whether it is finished, at work, stopped or failed."""

import contextlib
import fcntl
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..files import write_atomically
from .spec import SweepError

__all__ = [
    "RunState",
    "claim",
    "claimed_gpus",
    "note_config",
    "read_metrics",
    "read_state",
    "require_same_config",
]

_LOOK_SECONDS = 0.3

FINISHED, RUNNING, FAILED, STOPPED, WAITING = "finished", "running", "failed", "stopped", "waiting"

# Files in a run's folder, beside what train_net.py writes.
_LOCK = "run.lock"  # with the GPUs of the run that holds it
JOB = "sweep_job.json"  # its job on the cluster
CONFIG = "sweep_config.yaml"
RESULT = "sweep_result.json"
FAILURE = "sweep_failure.json"


@dataclass(frozen=True)
class RunState:
    """Where a run is.

    Attributes:
        state (str): "finished", "running", "failed", "stopped" (it was at work once, and will go
            on from its last checkpoint) or "waiting".
        iteration (int): iterations done, as far as `metrics.json` knows.
        result (dict): of a finished run: "metrics", "peak_memory_mib", and what it ran on.
        failure (dict): of a failed run: "error", its last line, and "exit".
    """

    state: str
    iteration: int = 0
    result: dict | None = None
    failure: dict | None = None


def read_state(run):
    """
    Args:
        run (Run):

    Returns:
        RunState:
    """
    rows = read_metrics(run.folder)
    iteration = int(rows[-1]["iteration"]) + 1 if rows else 0
    result, failure = _read_json(run.folder / RESULT), _read_json(run.folder / FAILURE)
    if result is not None:
        return RunState(FINISHED, iteration, result=result)
    if _is_claimed(run.folder):
        return RunState(RUNNING, iteration)
    if failure is not None:
        return RunState(FAILED, iteration, failure=failure)
    return RunState(STOPPED if (run.folder / _LOCK).exists() else WAITING, iteration)


def read_metrics(folder):
    """Rows of `metrics.json` in the order of their iterations.

    A run that was killed has done some iterations twice, of which the later rows count; a line
    that it was writing is left out.

    Args:
        folder (Path): of a run.

    Returns:
        list[dict]: each with "iteration".
    """
    path = folder / "metrics.json"
    if not path.exists():
        return []
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and "iteration" in row:
                # Losses and evaluation of an iteration can be in rows of their own.
                rows.setdefault(row["iteration"], {}).update(row)
    return [rows[iteration] for iteration in sorted(rows)]


@contextlib.contextmanager
def claim(folder, gpus=()):
    """Keep a run to oneself; the claim ends with the last process that holds the file open.

    Args:
        folder (Path): of the run, made if need be.
        gpus (sequence[str]): that the run will use, for :func:`claimed_gpus`.

    Yields:
        file: to hand on to child processes (``pass_fds``); None if another process has the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a") as file:
        if not _lock(file):
            yield None
            return
        file.truncate(0)
        file.write(",".join(gpus))
        file.flush()
        yield file


def _lock(file):
    # Somebody who looks whether it is free holds it for a moment.
    deadline = time.monotonic() + _LOOK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(random.uniform(0, 0.05))


def claimed_gpus(run):
    """
    Args:
        run (Run): at work on this machine.

    Returns:
        list[str]: the GPUs that it has, as CUDA_VISIBLE_DEVICES names them.
    """
    text = (run.folder / _LOCK).read_text()
    return text.split(",") if text else []


def note_config(run):
    """Write a run's config to its folder, for :func:`require_same_config`.

    Args:
        run (Run): that is about to start.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with write_atomically(str(run.folder / CONFIG), "w") as file:
        file.write(run.load_config().dump())


def require_same_config(run):
    """See that a run which was started before had the config that it has now.

    Where the folder lies does not matter: a sweep can be moved.

    Args:
        run (Run):

    Raises:
        SweepError: the folder holds a run of another config.
    """
    path = run.folder / CONFIG
    if not path.exists():
        return
    found, wanted = path.read_text(encoding="utf-8"), run.load_config().dump()
    if found == wanted:
        return
    old, new = (dict(_flat(yaml.safe_load(text))) for text in (found, wanted))
    keys = sorted(
        k for k in old.keys() | new.keys() if k != "OUTPUT_DIR" and old.get(k) != new.get(k)
    )
    if not keys:
        return
    differences = ", ".join(f"{k} {old.get(k)!r} -> {new.get(k)!r}" for k in keys[:5])
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    raise SweepError(
        f"{run.folder} holds a run of another config: {differences}{more}. Give the sweep another "
        "--output, or delete that folder."
    )


def write_json(path, content):
    """Write a JSON file all at once."""
    with write_atomically(str(path), "w") as file:
        json.dump(content, file, indent=1)


def _read_json(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _is_claimed(folder):
    path = Path(folder) / _LOCK
    if not path.exists():
        return False
    with open(path) as file:
        try:
            # Shared, so that two that look at the same time do not see each other.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

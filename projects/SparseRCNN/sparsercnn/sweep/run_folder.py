"""What the folder of a run tells: whether it is finished, at work, stopped or failed."""

import contextlib
import json
import random
import time
from dataclasses import dataclass

import yaml

from ..engine.metrics_file import read_metrics
from ..engine.overrides import differences, flatten
from ..errors import SweepError, abbreviate
from ..files import try_lock, write_atomically
from ..yaml_files import parse_yaml

__all__ = ["RunState", "claim", "note_config", "read_record", "read_state", "require_same_config"]

# Files in a run's folder, beside what train_net.py writes.
LOCK = "run.lock"  # with the GPUs of the run that holds it, as CUDA_VISIBLE_DEVICES has them
JOB = "sweep_job.json"  # its job on the cluster
_CONFIG = "sweep_config.yaml"
RESULT = "sweep_result.json"
FAILURE = "sweep_failure.json"


@dataclass(frozen=True)
class RunState:
    """Where a run is. A stopped one was at work, and will go on from its last checkpoint."""

    state: str  # "finished", "running", "waiting", "stopped" or "failed"
    rows: list  # of metrics.json
    result: dict | None = None  # of a finished run: "metrics", and what it ran on
    error: str = ""  # of a failed run: its last line

    @property
    def iteration(self):
        """int: iterations done, as far as `metrics.json` knows."""
        return int(self.rows[-1]["iteration"]) + 1 if self.rows else 0


def read_state(run):
    """The state of a :class:`Run` (RunState), from the files in its folder and their lock."""
    rows, lock = read_metrics(run.folder), run.folder / LOCK
    result = read_record(run.folder / RESULT, metrics=dict)
    failure = read_record(run.folder / FAILURE, error=str)
    if result is not None:
        return RunState("finished", rows, result)
    if lock.exists():
        with open(lock) as file:
            # Shared, so that two that look at the same time do not see each other.
            if not try_lock(file, shared=True):
                return RunState("running", rows)
    if failure is not None:
        return RunState("failed", rows, error=failure["error"])
    return RunState("stopped" if lock.exists() else "waiting", rows)


def read_record(path, **types):
    """A json object that this room wrote, or None if there is none.

    Args:
        path (Path): of the file.
        types: of the values that must be there, by key; those of "metrics" must be numbers.

    Raises:
        SweepError: the file was cut off or changed.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
        is_whole = all(isinstance(content[key], kind) for key, kind in types.items())
        is_whole = is_whole and isinstance(content.get("iteration", 0), int)
        is_whole = is_whole and all(
            isinstance(value, int | float) for value in content.get("metrics", {}).values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise SweepError(f"{path} is damaged. Delete it, and `sweep.py run` goes on with that run.")
    return content


@contextlib.contextmanager
def claim(folder, gpus=()):
    """Keep a run's folder (Path), made if need be, to oneself, and note the GPUs that it will use.

    Yields a file to hand on to child processes (``pass_fds``): the claim ends with the last process
    that holds it open. It is None if another process has the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a") as file:
        # Somebody who looks whether it is free holds it for a moment.
        deadline = time.monotonic() + 0.3
        while not try_lock(file):
            if time.monotonic() > deadline:
                yield None
                return
            time.sleep(random.uniform(0, 0.05))
        file.truncate(0)
        file.write(",".join(gpus))
        file.flush()
        yield file


def note_config(run):
    """Write the config of a run that is about to start, for :func:`require_same_config`."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with write_atomically(str(run.folder / _CONFIG), "w") as file:
        file.write(run.load_config().dump())


def configs_then_and_now(run):
    """Dotted keys and values of the config that a run was started with, and of its present one.

    Without OUTPUT_DIR: a sweep's folder can be moved. Both are empty if they are the same.
    """
    path, now = run.folder / _CONFIG, run.load_config().dump()
    then = path.read_text(encoding="utf-8", errors="replace") if path.exists() else now
    if then == now:  # parsing takes a while
        return {}, {}
    then, now = parse_yaml(then, str(path)), yaml.safe_load(now)
    if not isinstance(then, dict):
        raise SweepError(f"{path} is damaged. Delete {run.folder}, and the run starts anew.")
    then, now = dict(flatten(then)), dict(flatten(now))
    then.pop("OUTPUT_DIR", None), now.pop("OUTPUT_DIR")
    return then, now


def require_same_config(run):
    """Raise SweepError if the run's folder holds a run of another config."""
    old, new = configs_then_and_now(run)
    changed = differences(old, new)
    if changed:
        raise SweepError(
            f"{run.folder} holds a run of another config: {abbreviate(changed)}. Give the sweep "
            "another --output, or delete that folder."
        )

"""One run at a time has its folder, and runs do not mix in it."""

import os
import subprocess
import sys

import pytest

from sparsercnn.engine.run_folder import (
    changed_keys,
    last_checkpoint,
    lock_folder,
    open_run_folder,
)
from sparsercnn.errors import ConfigError

# Locks the folder of its first argument, says so, and waits for a line.
HOLDER = """
import sys
from sparsercnn.engine.run_folder import lock_folder
lock_folder(sys.argv[1])
print("locked", flush=True)
input()
"""


# The next run would write over these.
WRITTEN_ANEW = ["metrics.json", "metrics.csv", "trackers.json", "environment.txt"]


@pytest.fixture
def run(tmp_path):
    """A folder with a run in it."""
    names = ["model_0000004.pth", "model_best.pth", "model_best.json", "log.txt", *WRITTEN_ANEW]
    for name in [*names, "config.yaml", "train_net.txt"]:
        (tmp_path / name).write_text(name)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    (tmp_path / "inference").mkdir()
    return tmp_path


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_folder_in_use_is_refused_and_its_holder_named(holder, tmp_path):
    with pytest.raises(ConfigError, match=f"in use by process {holder.pid} on .*, since 20") as e:
        open_run_folder(str(tmp_path))
    assert str(tmp_path) in str(e.value) and "another OUTPUT_DIR" in str(e.value)
    with pytest.raises(ConfigError, match=f"process {holder.pid}"):  # an evaluation, too
        open_run_folder(str(tmp_path), training=False)
    holder.kill()
    holder.wait()
    lock_folder(str(tmp_path))  # the operating system has freed it
    lock_folder(str(tmp_path))  # which may be asked for again
    assert f"process {os.getpid()} on" in (tmp_path / "train.lock").read_text()


def test_a_lock_is_not_handed_on_to_child_processes(tmp_path):
    """Else a loading process that outlives a killed run would keep the next one out."""
    code = "import os, sys; from sparsercnn.engine.run_folder import lock_folder\n"
    code += "lock_folder(sys.argv[1])\nif os.fork() == 0:\n    import time; time.sleep(60)\n"
    code += "print('locked', flush=True)\nos.kill(os.getpid(), 9)"
    streams = {"stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **streams) as process:
        assert process.stdout.readline() == "locked\n"
        process.wait()
        lock_folder(str(tmp_path))


def test_a_run_is_not_started_over_by_mistake(run):
    with pytest.raises(ConfigError, match=r"holds a run: model_0000004.pth, model_best.pth") as e:
        open_run_folder(str(run))
    assert "--resume" in str(e.value) and f"moves the old run to {run}/previous_1" in str(e.value)
    open_run_folder(str(run), resume=True)
    with pytest.raises(ConfigError, match="give one of them"):
        open_run_folder(str(run), resume=True, overwrite=True)
    assert (run / "metrics.json").exists()


def test_a_run_without_a_checkpoint_is_no_run(run):
    for path in run.glob("model_*.pth"):
        path.unlink()
    open_run_folder(str(run))


def test_a_run_is_moved_aside_whole_and_alone(run):
    for number in (1, 2):
        open_run_folder(str(run), overwrite=True)
        moved = {path.name for path in (run / f"previous_{number}").iterdir()}
        assert {"model_0000004.pth", "inference", "last_checkpoint", *WRITTEN_ANEW} <= moved
        assert "train_net.txt" not in moved and (run / "train_net.txt").exists()
        assert (run / "previous_1" / "config.yaml").read_text() == "config.yaml"
        assert last_checkpoint(str(run)) == ""
        (run / "model_0000004.pth").touch()  # and the next run
        for name in ("last_checkpoint", *WRITTEN_ANEW):
            (run / name).touch()
        (run / "inference").mkdir()
    open_run_folder(str(run), overwrite=True)


def test_the_first_checkpoint_counts_before_it_is_noted(run):
    (run / "last_checkpoint").unlink()
    assert last_checkpoint(str(run)) == str(run / "model_0000004.pth")
    (run / "model_0000004.pth").rename(run / "model_latest.pth")
    assert last_checkpoint(str(run)) == str(run / "model_latest.pth")
    (run / "model_latest.pth").unlink()
    assert last_checkpoint(str(run)) == ""  # model_best is not one to resume from


def test_leftovers_of_killed_processes_go(run):
    leftover = run / f"model_0000009.pth.{'a' * 32}.tmp"
    leftover.touch()
    open_run_folder(str(run), resume=True)
    assert not leftover.exists()


def test_changed_keys_are_named():
    then = "A: {B: 1, C: x}\nOUTPUT_DIR: here\nOLD: 1\n"
    now = "A: {B: 2, C: x}\nOUTPUT_DIR: there\nNEW: 1\n"
    assert changed_keys(then, now) == ["A.B 1 -> 2"]
    assert changed_keys(now, now) == []

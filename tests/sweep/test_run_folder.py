"""The state of a run follows from its folder."""

import fcntl
import json
import subprocess
import sys
import threading

import pytest
import yaml

from sparsercnn.files import write_json
from sparsercnn.sweep import SweepError, load_sweep
from sparsercnn.sweep.run_folder import (
    FAILURE,
    LOCK,
    RESULT,
    claim,
    note_config,
    read_metrics,
    read_state,
    require_same_config,
)


@pytest.fixture
def run(squares):
    content = {"base": "tiny.yaml", "variants": {"a": {}}}
    (squares / "sweep.yaml").write_text(yaml.safe_dump(content))
    return load_sweep(squares / "sweep.yaml", output=squares / "out").runs[0]


def test_states(run):
    assert read_state(run).state == "waiting"
    with claim(run.folder) as lock:
        assert lock is not None
        assert read_state(run).state == "running"
        with claim(run.folder) as second:
            assert second is None
    (run.folder / "metrics.json").write_text('{"iteration": 4, "total_loss": 1}\n')
    state = read_state(run)
    assert (state.state, state.iteration) == ("stopped", 5)
    write_json(run.folder / FAILURE, {"error": "no", "exit": 1})
    assert read_state(run).error == "no"
    write_json(run.folder / RESULT, {"metrics": {"bbox/AP": 1.0}})
    assert read_state(run).state == "finished"


def test_a_look_does_not_keep_a_run_from_being_claimed(run):
    with claim(run.folder):
        pass
    with open(run.folder / "run.lock") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        timer = threading.Timer(0.2, fcntl.flock, (look, fcntl.LOCK_UN))
        timer.start()
        with claim(run.folder, ["3", "5"]) as lock:
            assert lock is not None
            assert (run.folder / LOCK).read_text() == "3,5"
        timer.join()
    with claim(run.folder):
        assert (run.folder / LOCK).read_text() == ""


def test_a_claim_lasts_as_long_as_a_child_that_has_it(run):
    with claim(run.folder) as lock:
        command = [sys.executable, "-c", "input()"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    assert read_state(run).state == "running"
    child.communicate(b"\n")
    assert read_state(run).state == "stopped"


def test_metrics_of_an_interrupted_run(tmp_path):
    lines = [
        {"iteration": 1, "total_loss": 5.0},
        {"iteration": 3, "total_loss": 4.0},
        {"iteration": 1, "total_loss": 5.5},  # done again from a checkpoint
        {"iteration": 3, "bbox/AP": 10.0},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"iteration": 5, "total'
    (tmp_path / "metrics.json").write_text(text)
    assert read_metrics(tmp_path) == [
        {"iteration": 1, "total_loss": 5.5},
        {"iteration": 3, "total_loss": 4.0, "bbox/AP": 10.0},
    ]


def test_a_folder_is_not_used_for_two_configs(run, squares):
    require_same_config(run)  # nothing was started
    note_config(run)
    require_same_config(run)
    other = load_sweep(
        squares / "sweep.yaml", ["SOLVER.BASE_LR", "0.5"], output=squares / "out"
    ).runs[0]
    with pytest.raises(SweepError, match=r"another config: SOLVER.BASE_LR 0.0004 -> 0.5"):
        require_same_config(other)


def test_a_sweep_can_be_moved(run, squares):
    note_config(run)
    run.folder.parent.parent.rename(squares / "elsewhere")
    moved = load_sweep(squares / "sweep.yaml", output=squares / "elsewhere").runs[0]
    assert moved.folder.exists() and moved.folder != run.folder
    require_same_config(moved)

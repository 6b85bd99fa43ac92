"""Sweeps that are run: interrupted, with a run that fails, and for SLURM on paper."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from sparsercnn.sweep import SweepError, load_sweep
from sparsercnn.sweep.launch import dry_run, launch
from sparsercnn.sweep.progress import format_status
from sparsercnn.sweep.run_folder import read_state

CONTENT = {
    "base": "tiny.yaml",
    "axes": {"MODEL.SparseRCNN.NUM_HEADS": [1, 2]},
    "overrides": {"SOLVER": {"MAX_ITER": 100, "CHECKPOINT_PERIOD": 10, "OPTIMIZER": "SGD"}},
    "seeds": [3],
    "resources": {"parallel": 2},
}


@pytest.fixture
def load(squares, monkeypatch):
    monkeypatch.chdir(squares)

    def load(output, **content):
        content = {key: value for key, value in {**CONTENT, **content}.items() if value}
        (squares / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load_sweep(squares / "sweep.yaml", output=squares / output)

    return load


def metrics_of(sweep):
    return {run.name: read_state(run).result["metrics"] for run in sweep.runs}


def start(sweep):
    """Launch in a process group of its own."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setsid()
            status = launch(sweep)
        finally:
            os._exit(status)
    return pid


def wait_for_checkpoint(sweep, pid):
    """Until a run has written another one; an ended launch has none to wait for."""

    def written():
        files = [run.folder / "last_checkpoint" for run in sweep.runs]
        return [file.stat().st_mtime_ns for file in files if file.exists()]

    before = written()
    while (
        written() == before
        and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    ):
        time.sleep(0.02)


def test_a_sweep_killed_twenty_times_ends_as_one_left_alone(load):
    alone = load("alone")
    begin = time.monotonic()
    assert launch(alone) == 0
    duration = time.monotonic() - begin

    killed = load("killed")
    draw = random.Random(0)
    for i in range(20):
        pid = start(killed)
        if i % 3 == 0:
            wait_for_checkpoint(killed, pid)
            time.sleep(draw.uniform(0, 1))  # in the next iterations, or while it writes
        else:
            time.sleep(draw.uniform(0, duration / 3))  # mostly while processes start
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert launch(killed) == 0
    assert metrics_of(killed) == metrics_of(alone)
    for run, undisturbed in zip(killed.runs, alone.runs, strict=True):
        weights, expected = (
            torch.load(x.folder / "model_final.pth", weights_only=True)["model"]
            for x in (run, undisturbed)
        )
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    text = "".join((run.folder / "train_net.txt").read_text() for run in killed.runs)
    starts = [int(n) for n in re.findall(r"Starting training from iteration (\d+)", text)]
    assert len({n for n in starts if 0 < n < 100}) > 2


def test_a_terminated_sweep_takes_its_runs_along(load):
    sweep = load("terminated")
    tool = Path(__file__).resolve().parents[2] / "tools" / "sweep.py"
    command = [sys.executable, tool, "run", sweep.file, "--output", sweep.output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while not any((run.folder / "last_checkpoint").exists() for run in sweep.runs):
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
        assert "the same command goes on" in process.communicate(timeout=60)[0]
    assert not {"running", "finished"} & {read_state(run).state for run in sweep.runs}


def test_a_failure_is_told_and_stops_nothing_else(load, capsys):
    variants = {"bad": {"MODEL.SparseRCNN.NUM_CLASSES": 7}, "good": {}}
    content = {"variants": variants, "resources": {"parallel": 1}}
    sweep = load("failing", axes=None, **content)
    assert launch(sweep) == 1
    bad, good = map(read_state, sweep.runs)
    assert bad.state == "failed" and "NUM_CLASSES is 7" in bad.failure["error"]
    assert good.state == "finished" and good.result["peak_memory_mib"] > 0
    assert "NUM_CLASSES is 7" in capsys.readouterr().out
    assert "1 failed" in format_status(sweep)


def test_a_model_that_cannot_be_built_is_refused_before_anything_starts(load):
    sweep = load("wide", axes={"MODEL.SparseRCNN.HIDDEN_DIM": [32, 64]})
    with pytest.raises(SweepError, match="'HIDDEN_DIM=64': .*they must agree"):
        launch(sweep)
    assert not sweep.output.exists()


def test_an_unknown_metric_is_a_failure_that_lists_the_known(load):
    sweep = load("metric", metric="segm/AP", axes={"MODEL.SparseRCNN.NUM_HEADS": [1]})
    assert launch(sweep) == 1
    assert "no metric segm/AP; there are: bbox/AP" in read_state(sweep.runs[0]).failure["error"]


def test_the_batch_script_of_slurm_has_the_resources(load):
    resources = {"cluster": "slurm", "gpus": 8, "nodes": 2, "cpus": 40, "hours": 10, "parallel": 3}
    script = dry_run(load("slurm", resources={**resources, "partition": "gpu", "memory_gb": 200}))
    for line in (
        "--gpus-per-node=8",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=40",
        "--mem=200G",
        "--partition=gpu",
        "--time=600",
        "--array=0-1%2",  # as many at a time as there are
    ):
        assert f"#SBATCH {line}\n" in script, line
    assert script.count("train_net.py --num-gpus 8") == 2


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster that takes every job and starts none."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    number = "n=$(($(cat jobs 2>/dev/null || echo 40) + 1)); echo $n > jobs"
    commands = {
        "srun": "",
        "sbatch": f'cd {folder}; {number}; cp "$1" script_$n; echo "Submitted batch job $n"',
        "sacct": "echo 'JobID|State'; for i in 0 1; do echo \"41_$i|PENDING\"; done",
    }
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_slurm_gets_an_array_once(load, slurm, capsys):
    sweep = load("cluster", resources={"cluster": "slurm", "gpus": 2, "parallel": 2})
    assert launch(sweep, wait=False) == 0
    assert "2 jobs submitted" in capsys.readouterr().out
    script = (slurm / "script_41").read_text()
    assert "#SBATCH --array=0-1%2" in script and "#SBATCH --gpus-per-node=2" in script
    # The same again leaves jobs that are waiting alone.
    assert launch(sweep, wait=False) == 0
    assert [file.name for file in slurm.glob("script_*")] == ["script_41"]


def test_slurm_that_is_not_there_is_an_error(load):
    with pytest.raises(SweepError, match="there is no srun here"):
        launch(load("nowhere", resources={"cluster": "slurm"}))

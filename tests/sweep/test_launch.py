"""Sweeps that are run: interrupted, with a run that fails, and for SLURM on paper."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from submitit import SlurmJob

from sparsercnn.engine.arguments import argument_parser
from sparsercnn.engine.processes import _place_of_launcher
from sparsercnn.sweep import SweepError, load_sweep
from sparsercnn.sweep.launch import dry_run, launch
from sparsercnn.sweep.results import format_status, read_runs, seconds_left
from sparsercnn.sweep.run_folder import claim, read_state
from sparsercnn.sweep.worker import Worker

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


def text_of(file):
    return file.read_text(errors="replace") if file.exists() else ""


# What changes in a run's folder at a moment, in the order in which they come.
MOMENTS = {
    "its program starts": lambda folder: text_of(folder / "train_net.txt").count("$ "),
    "it writes a checkpoint": lambda folder: sorted(folder.glob("model_*")),
    "it notes its losses": lambda folder: text_of(folder / "metrics.json"),
    "it has a checkpoint to go on from": lambda folder: text_of(folder / "last_checkpoint"),
    "it has its final weights": lambda folder: (folder / "model_final.pth").exists(),
    "it is finished": lambda folder: (folder / "sweep_result.json").exists(),
}


def wait_for(moment, sweep, pid):
    """Until it comes, for either run, in a sweep that has just been started as process `pid`."""

    def look():
        return [MOMENTS[moment](run.folder) for run in sweep.runs]

    before = look()
    while look() == before:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None, f"the sweep ended before: {moment}"
        time.sleep(0.005)


@pytest.mark.slow
def kill(sweep, pid):
    """Launch, workers and runs, at once; none of them may keep a folder."""
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + 60
    while "running" in {read_state(run).state for run in sweep.runs}:
        assert time.monotonic() < deadline, "a run has survived"
        time.sleep(0.01)


def test_a_sweep_killed_at_every_moment_ends_as_one_left_alone(load):
    solver = {**CONTENT["overrides"]["SOLVER"], "MAX_ITER": 40, "CHECKPOINT_PERIOD": 5}
    alone = load("alone", overrides={"SOLVER": solver})
    assert launch(alone) == 0
    killed = load("killed", overrides={"SOLVER": solver})
    for moment in MOMENTS:
        pid = start(killed)
        wait_for(moment, killed, pid)
        kill(killed, pid)
    assert launch(killed) == 0
    assert metrics_of(killed) == metrics_of(alone)
    for run, undisturbed in zip(killed.runs, alone.runs, strict=True):
        weights, expected = (
            torch.load(x.folder / "model_final.pth", weights_only=True)["model"]
            for x in (run, undisturbed)
        )
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    text = "".join(text_of(run.folder / "train_net.txt") for run in killed.runs)
    starts = [int(n) for n in re.findall(r"Starting training from iteration (\d+)", text)]
    assert len({n for n in starts if 0 < n < 40}) > 1


def ignore_interrupts():
    """As for what a script starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_a_terminated_sweep_takes_its_runs_along(load):
    endless = {"SOLVER": {**CONTENT["overrides"]["SOLVER"], "MAX_ITER": 100_000}}
    sweep = load("terminated", overrides=endless)
    tool = Path(__file__).resolve().parents[2] / "tools" / "sweep.py"
    command = [sys.executable, tool, "run", sweep.file, "--output", sweep.output]
    options = {"stdout": subprocess.PIPE, "text": True, "preexec_fn": ignore_interrupts}
    with subprocess.Popen(command, **options) as process:
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
    assert bad.state == "failed" and "NUM_CLASSES is 7" in bad.error
    assert good.state == "finished" and good.result["peak_memory_mib"] > 0
    assert "NUM_CLASSES is 7" in capsys.readouterr().out
    assert "1 failed" in format_status(sweep)


def test_a_run_that_takes_too_long_is_stopped_and_the_next_one_started(load):
    hours = {"hours": 0.5 / 3600}
    sweep = load("long", axes={"MODEL.SparseRCNN.NUM_HEADS": [1, 2]}, resources=hours)
    assert launch(sweep) == 1
    errors = [read_state(run).error for run in sweep.runs]
    assert all("stopped after 0.000138" in error for error in errors)


def test_a_model_that_cannot_be_built_is_refused_before_anything_starts(load):
    sweep = load("wide", axes={"MODEL.SparseRCNN.HIDDEN_DIM": [32, 64]})
    with pytest.raises(SweepError, match="'HIDDEN_DIM=64': .*they must agree"):
        launch(sweep)
    assert not sweep.output.exists()


def test_an_unknown_metric_is_a_failure_that_lists_the_known(load):
    sweep = load("metric", metric="segm/AP", axes={"MODEL.SparseRCNN.NUM_HEADS": [1]})
    assert launch(sweep) == 1
    assert "no metric segm/AP; there are: bbox/AP" in read_state(sweep.runs[0]).error


ON_GPUS = {"MODEL.DEVICE": "cuda", "SOLVER": {"MAX_ITER": 5, "IMS_PER_BATCH": 16}}


@pytest.fixture
def local_gpus(monkeypatch):
    """Four GPUs, of which workers are noted rather than started."""
    workers = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,4,5,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("submitit.LocalExecutor.submit", lambda _, worker: workers.append(worker))
    return workers


def test_workers_get_gpus_that_are_there_and_free(load, local_gpus):
    resources = {"gpus": 2, "parallel": 2, "cpus": 6}
    sweep = load("gpus", overrides=ON_GPUS, resources=resources)
    launch(sweep, wait=False)
    assert [worker.gpu_ids for worker in local_gpus] == [["2", "4"], ["5", "7"]]
    assert local_gpus[0].resources.threads == 3  # of each of two processes
    local_gpus.clear()
    with claim(sweep.runs[1].folder, ["2", "4"]):
        launch(sweep, wait=False)
    assert [worker.gpu_ids for worker in local_gpus] == [["5", "7"]]
    overrides = {"MODEL.DEVICE": "cuda", "SOLVER.IMS_PER_BATCH": 3}
    more = load("more", overrides=overrides, resources={"gpus": 3, "parallel": 2})
    with pytest.raises(SweepError, match="2 runs at a time with 3 GPUs .* 4 that are free"):
        launch(more)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"MODEL.DEVICE": "cpu"}, "gets 2 GPUs, and MODEL.DEVICE is cpu.*--opts MODEL.DEVICE cuda"),
        ({"MODEL.DEVICE": "cuda", "SOLVER.IMS_PER_BATCH": 3}, "3 cannot be shared by 2 GPUs"),
    ],
)
def test_configs_that_do_not_fit_the_gpus_are_refused(load, local_gpus, overrides, message):
    with pytest.raises(SweepError, match=message):
        launch(load("unfit", overrides=overrides, resources={"gpus": 2}))
    assert not local_gpus


def test_the_expected_end_counts_runs_that_are_left(load):
    sweep = load("left", resources={"parallel": 4})
    for run, iterations in zip(sweep.runs, (10, 100), strict=True):
        run.folder.mkdir(parents=True)
        row = {"iteration": iterations - 1, "time": 2.0}
        (run.folder / "metrics.json").write_text(json.dumps(row))
    assert seconds_left(read_runs(sweep), 4) == pytest.approx(180)


def test_runs_in_epochs_have_the_length_that_their_data_give(make_sweep, squares):
    data = [f"coco:{squares}/squares.json@{squares}"]  # four images
    overrides = {"DATASETS.TRAIN": data, "SOLVER.IMS_PER_BATCH": 2}
    variants = {"epochs": {"SOLVER.EPOCHS": 15}, "iterations": {"SOLVER.MAX_ITER": 7}}
    assert [*read_runs(make_sweep(overrides=overrides, variants=variants))["length"]] == [30, 7]


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
    SlurmJob.watcher.clear()  # of another test's jobs, which have the same numbers
    return folder


def test_a_dry_run_for_slurm_has_the_resources(load, slurm):
    resources = {"cluster": "slurm", "gpus": 8, "nodes": 2, "cpus": 40, "hours": 10, "parallel": 3}
    resources |= {"partition": "gpu", "memory_gb": 200}
    sweep = load("paper", overrides=ON_GPUS, resources=resources)
    text = dry_run(sweep)
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
        assert f"#SBATCH {line}\n" in text, line
    assert text.count("-m sparsercnn train --num-gpus 8") == 2
    # What submitit makes of it has all that.
    launch(sweep, wait=False)
    script = (slurm / "script_41").read_text()
    assert {x for x in text.splitlines() if "#SBATCH" in x} <= set(script.splitlines())
    assert re.search(r"\nsrun .*--cpus-per-task=40 ", script)
    assert "\n# each job: srun --cpus-per-task=40\n" in text


def test_two_nodes_start_one_run_that_meets_on_the_first(load, slurm, monkeypatch):
    """srun starts one task on each node, each of which starts its processes."""
    resources = {"cluster": "slurm", "nodes": 2, "gpus": 4, "cpus": 8}
    axes = {"MODEL.SparseRCNN.NUM_HEADS": [1]}
    sweep = load("nodes", axes=axes, overrides=ON_GPUS, resources=resources)
    assert launch(sweep, wait=False) == 0
    script = (slurm / "script_41").read_text()
    for line in ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=8"):
        assert f"#SBATCH {line}\n" in script
    commands = []
    popen = subprocess.Popen

    def note(command, env, **options):
        commands.append((command, env))
        return popen(["true"], env=env, **options)

    monkeypatch.setattr("sparsercnn.sweep.worker.subprocess.Popen", note)
    for node in (0, 1):
        of_slurm = {"SLURM_JOB_ID": "41", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}
        of_slurm |= {"SLURM_NODEID": str(node), "SLURM_PROCID": str(node), "SLURM_LOCALID": "0"}
        of_slurm |= {"SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_STEP_NUM_TASKS": "2"}
        of_slurm["SUBMITIT_EXECUTOR"] = "slurm"  # set by submitit in the batch script
        for name, value in of_slurm.items():
            monkeypatch.setenv(name, value)
        Worker(sweep.runs, sweep.metric, sweep.resources)()
    urls = set()
    for node, (command, environment) in enumerate(commands):
        args = argument_parser().parse_args(command[4:])
        assert (args.num_machines, args.machine_rank, args.num_gpus) == (2, node, 4)
        assert args.resume and environment["OMP_NUM_THREADS"] == "2"
        # The tasks of srun are not the processes of the run: what the command line says counts.
        assert _place_of_launcher(args) is None
        urls.add(args.dist_url)
    assert len(commands) == 2 and len(urls) == 1
    assert re.fullmatch(r"tcp://gpu03:2\d{4}|tcp://gpu03:3\d{4}", urls.pop())


def test_slurm_gets_an_array_once(load, slurm, capsys):
    resources = {"cluster": "slurm", "gpus": 2, "parallel": 2}
    sweep = load("cluster", overrides=ON_GPUS, resources=resources)
    assert launch(sweep, wait=False) == 0
    assert "2 jobs submitted." in capsys.readouterr().out
    script = (slurm / "script_41").read_text()
    assert "#SBATCH --array=0-1%2" in script and "#SBATCH --gpus-per-node=2" in script
    # The same again leaves jobs that are waiting alone.
    assert launch(sweep, wait=False) == 0
    assert [file.name for file in slurm.glob("script_*")] == ["script_41"]
    assert "0 jobs submitted, 2 were there already" in capsys.readouterr().out


def test_jobs_that_slurm_has_forgotten_are_submitted_again(load, slurm, monkeypatch):
    (slurm / "sacct").write_text("#!/bin/sh\necho 'JobID|State'\n")
    sweep = load("forgotten", resources={"cluster": "slurm", "parallel": 2})
    launch(sweep, wait=False)
    launch(sweep, wait=False)
    assert len(list(slurm.glob("script_*"))) == 1  # it may only not have noticed yet
    monkeypatch.setattr("sparsercnn.sweep.launch._UNKNOWN_SECONDS", 0)
    launch(sweep, wait=False)
    assert len(list(slurm.glob("script_*"))) == 2


def test_a_job_that_waits_keeps_its_config(load, slurm):
    resources = {"cluster": "slurm", "parallel": 2}
    launch(load("kept", resources=resources), wait=False)
    other = load("kept", resources=resources, overrides={"SOLVER.MAX_ITER": 7})
    with pytest.raises(SweepError, match="holds a run of another config"):
        launch(other, wait=False)


def test_slurm_that_is_not_there_is_an_error(load):
    sweep = load("nowhere", resources={"cluster": "slurm"})
    with pytest.raises(SweepError, match="there is no srun here"):
        launch(sweep)
    assert not any(run.folder.exists() for run in sweep.runs)  # free for another config

"""Several processes train and evaluate as one does, whoever starts them; and end together."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

from sparsercnn.engine import processes
from sparsercnn.engine.arguments import argument_parser
from sparsercnn.engine.launchers import Place
from sparsercnn.engine.processes import run_processes

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = str(REPOSITORY / "projects" / "SparseRCNN" / "train_net.py")
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(REPOSITORY / "projects" / "SparseRCNN"),
}


@pytest.fixture(scope="module")
def results(make_squares, tmp_path_factory):
    """What :file:`processes_program.py` found in 1, 2 and 3 processes, by their number."""
    folder = make_squares(tmp_path_factory.mktemp("processes"))
    content = json.loads((folder / "squares.json").read_text())
    content["images"] = content["images"][:2]
    content["annotations"] = content["annotations"][:2]
    (folder / "two.json").write_text(json.dumps(content))
    program = Path(__file__).parent / "processes_program.py"
    run = subprocess.run(
        [sys.executable, program, folder],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return {n: json.loads((folder / f"results_{n}.json").read_text()) for n in (1, 2, 3)}


@pytest.mark.parametrize("number", [2, 3])
def test_losses_are_those_of_one_process_with_all_images(results, number):
    """To rounding at the first step. From there on a unit whose input is zero but for rounding
    can pass its gradient or not, so that later steps are compared less strictly."""
    expected = results[1]["losses"][str(number)]
    assert len(expected) == 13
    for name, steps in expected.items():
        assert len({step["total_loss"] for step in steps}) == 3, f"{name} does not learn"
        tolerances = [(1e-5, 1e-4), (3e-4, 3e-2), (3e-4, 3e-2)]  # of losses, of the norm
        found = results[number]["losses"][name]
        for actual, step, (loss, norm) in zip(found, steps, tolerances, strict=True):
            assert actual.pop("grad_norm") == pytest.approx(step.pop("grad_norm"), rel=norm), name
            assert actual == pytest.approx(step, rel=loss, abs=1e-6), name


def test_a_run_is_resumed_by_another_number_of_processes(results):
    whole = results[1]["trained"]
    assert results[2]["trained"] == pytest.approx(whole[:2], rel=1e-4)
    assert results[3]["trained"] == pytest.approx(whole, rel=1e-4) and len(whole) == 4


@pytest.mark.parametrize("number", [2, 3])
def test_each_image_is_evaluated_once(results, number):
    """Also if they cannot be shared out evenly, and if there are fewer than processes; by the
    statistics of the first process, which its checkpoints hold, whatever those of the others."""
    for name, detections in results[number]["evaluated"].items():
        expected = sorted(results[1]["evaluated"][name])
        assert len({x[0] for x in expected}) == {"squares": 4, "two": 2}[name]
        for actual, wanted in zip(sorted(detections), expected, strict=True):
            assert actual == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("number", [2, 3])
def test_detectron2_knows_the_processes_of_the_machine(results, number):
    assert results[number]["local"] == [0, number]


def test_an_error_in_one_process_is_that_of_the_run(results):
    assert results[1]["errors"]["2"] == ["UserError", "made up by rank 1"]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (MemoryError("of 3 GiB"), 2, "The memory is used up: of 3 GiB"),
        (torch.OutOfMemoryError("CUDA out of memory."), 2, "The memory is used up: CUDA out of"),
        (OSError(errno.ENOSPC, "No space left", "log.txt"), 2, "log.txt: No space left. Free "),
        (RuntimeError("a bug"), 1, "Traceback"),
    ],
)
def test_a_process_tells_its_error_as_a_program_does(monkeypatch, error, status, message):
    def fail(*_):
        raise error

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(processes, "_call", fail)
    receiver, sender = Pipe(duplex=False)
    with pytest.raises(SystemExit) as end:
        processes._start(0, None, None, Place(0, 1, 0, 0, ""), "gloo", [sender])
    assert end.value.code == status
    is_users, text = receiver.recv()
    assert is_users == (status == 2) and text.startswith(message)


def test_a_killed_process_ends_the_others_and_is_named(results):
    kind, message = results[1]["errors"]["3"]
    assert kind == "ProcessError"
    assert message.startswith("Rank 1 of 3 (process ") and "was killed by SIGKILL" in message


class Program:
    """A program whose output goes into a file: nobody reads it until the program has ended."""

    def __init__(self, name, command, folder, environment=()):
        self.output = folder / f"{name}.txt"
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**ENVIRONMENT, **dict(environment)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def is_alive(self):
        return self.process.poll() is None

    def end(self):
        """Its output, once it has ended well."""
        status = self.process.wait(timeout=600)
        assert status == 0, self.output.read_text()[-3000:]
        return self.output.read_text()


def options(*more):
    return ["--num-gpus", "0", "--config-file", "tiny.yaml", "DATASETS.TEST", "()", *more]


def process_of_rank(rank, folder):
    """The number of a process of torchrun's whose OUTPUT_DIR is in `folder`; None if not there."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().decode().split("\0")
            environment = (path / "environ").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if TRAIN in command and str(folder) in command and f"RANK={rank}" in environment:
            return int(path.name)
    return None


def test_two_nodes_of_torchrun_resume_after_a_process_was_killed(squares, free_port):
    output = squares / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node"]
    command += ["1", "--max-restarts", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    command += [f"127.0.0.1:{free_port}", TRAIN]
    command += options("SOLVER.MAX_ITER", "40", "SOLVER.CHECKPOINT_PERIOD", "5")
    command += ["OUTPUT_DIR", str(output)]
    nodes = [Program(f"node_{i}", command, squares) for i in range(2)]
    while not (output / "last_checkpoint").exists():
        assert all(node.is_alive() for node in nodes), nodes[0].output.read_text()[-3000:]
        time.sleep(0.1)
    os.kill(process_of_rank(1, output), signal.SIGKILL)
    text = "".join(node.end() for node in nodes)
    starts = [int(x) for x in re.findall(r"Starting training from iteration (\d+)", text)]
    assert len(starts) > 1 and min(starts) == 0 and 0 < max(starts) < 40
    assert "; processes: 2, " in text
    assert (output / "model_final.pth").exists()


def test_tasks_of_srun_are_one_run(squares):
    """srun sets these variables; it starts nothing else."""
    of_slurm = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "node[03-04]",
        "SLURM_NODEID": "0",
    }
    command = [sys.executable, TRAIN, *options()]
    tasks = [
        Program(
            f"task_{i}",
            command,
            squares,
            {**of_slurm, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
        )
        for i in range(2)
    ]
    first, second = (task.end() for task in tasks)
    assert "; processes: 2, " in first and "Starting training from iteration 0" in first
    assert "Starting training" not in second
    assert (squares / "out" / "model_final.pth").exists()


@pytest.mark.parametrize(
    ("options", "resume", "overwrite"),
    [
        ("", True, False),
        ("--overwrite", True, False),  # it has been done
        ("--resume --overwrite", True, True),  # is refused later
    ],
)
def test_a_run_that_its_launcher_starts_again_is_resumed(monkeypatch, options, resume, overwrite):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    seen = []
    args = argument_parser().parse_args(["--num-gpus", "0", *options.split()])
    run_processes(seen.append, args)
    assert [(x.resume, x.overwrite) for x in seen] == [(resume, overwrite)]

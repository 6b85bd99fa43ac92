"""train_net.py as people run it: from another folder, on their own images, on the CPU."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def train_net(squares, repository):
    def run(*arguments):
        script = repository / "projects" / "SparseRCNN" / "train_net.py"
        command = [sys.executable, script, "--num-gpus", "0", "--config-file", "tiny.yaml"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["OMP_NUM_THREADS"] = "1"
        return subprocess.run(
            [*map(str, command), *arguments],
            cwd=squares,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def _metrics(folder):
    return [json.loads(line) for line in (folder / "out/metrics.json").read_text().splitlines()]


def test_train_evaluate_and_resume(train_net, squares):
    run = train_net()
    assert run.returncode == 0, run.stderr
    assert "Average Precision" in run.stdout and "| odd" in run.stdout
    trained = _metrics(squares)
    assert "total_loss" in trained[0] and "bbox/AP" in trained[-1]
    detections = json.loads((squares / "out/inference/coco_instances_results.json").read_text())
    assert detections

    run = train_net("--eval-only", "MODEL.WEIGHTS", "out/model_final.pth", "OUTPUT_DIR", "eval")
    assert run.returncode == 0, run.stderr
    again = json.loads((squares / "eval/inference/coco_instances_results.json").read_text())
    assert again == detections

    run = train_net("--resume", "SOLVER.MAX_ITER", "4")
    assert run.returncode == 0, run.stderr
    assert "Starting training from iteration 2" in run.stdout
    assert _metrics(squares)[-1]["iteration"] == 4


def test_a_mistake_ends_with_one_line(train_net):
    run = train_net("MODEL.SparseRCNN.NUM_CLASSES", "3")
    assert run.returncode == 2
    assert "error: MODEL.SparseRCNN.NUM_CLASSES is 3" in run.stderr
    assert "Traceback" not in run.stderr

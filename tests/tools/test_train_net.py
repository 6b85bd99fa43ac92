"""train_net.py as people run it: from another folder, on their own images, on the CPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from sparsercnn.data.crowdhuman import convert_crowdhuman


@pytest.fixture
def train_net(squares, repository):
    def run(*arguments, wait=True):
        script = repository / "projects" / "SparseRCNN" / "train_net.py"
        command = [sys.executable, script, "--num-gpus", "0", "--config-file", "tiny.yaml"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["OMP_NUM_THREADS"] = "1"
        command = [*map(str, command), *arguments]
        options = {"cwd": squares, "env": environment, "text": True}
        if wait:
            return subprocess.run(command, capture_output=True, timeout=300, **options)
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, start_new_session=True, **streams, **options)

    return run


def _metrics(folder):
    return [json.loads(line) for line in (folder / "out/metrics.json").read_text().splitlines()]


def test_train_evaluate_and_resume(train_net, squares):
    run = train_net()
    assert run.returncode == 0, run.stderr
    assert "Average Precision" in run.stdout and "| odd" in run.stdout
    log = (squares / "out/log.txt").read_text()
    assert log.partition("  iter: ")[0].count("\n") < 60 and "\x1b" not in log
    assert "PyTorch" in (squares / "out/environment.txt").read_text()
    assert "NUM_PROPOSALS: 6" in (squares / "out/config.yaml").read_text()
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


def test_crowdhuman_is_trained_and_evaluated_by_its_own_metrics(train_net, squares, monkeypatch):
    root = squares / "data" / "crowdhuman"
    for split in ("train", "val"):
        folder = root / f"CrowdHuman_{split}"
        folder.mkdir(parents=True)
        people = [
            {"tag": "person", "fbox": [10, 10, 30, 20]},
            {"tag": "mask", "fbox": [40, 40, 20, 20], "extra": {"ignore": 1}},
        ]
        lines = [json.dumps({"ID": str(i), "gtboxes": people}) for i in range(4)]
        (root / f"annotation_{split}.odgt").write_text("\n".join(lines))
        for i in range(4):
            Image.open(squares / f"{i}.png").save(folder / f"{i}.jpg")
        convert_crowdhuman(str(root), split)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(squares / "data"))
    options = {
        "DATASETS.TRAIN": "('CrowdHuman_train',)",
        "DATASETS.TEST": "('CrowdHuman_val',)",
        "MODEL.SparseRCNN.NUM_CLASSES": "1",
        "TEST.BEST_METRIC": "bbox/MR",
        "TEST.AUG.ENABLED": "True",
        "TEST.AUG.MIN_SIZES": "(64, 80)",
        "TEST.AUG.SCALE_FILTER": "False",
    }
    run = train_net(*(word for option in options.items() for word in option))
    assert run.returncode == 0, run.stderr
    last = _metrics(squares)[-1]
    assert {f"{task}/{x}" for task in ("bbox", "bbox_TTA") for x in ("AP50", "MR", "JI")} <= {*last}
    best = json.loads((squares / "out/model_best.json").read_text())
    assert best["metric"] == "bbox/MR" and best["value"] == pytest.approx(last["bbox/MR"])


def test_a_mistake_ends_with_one_line(train_net):
    run = train_net("MODEL.SparseRCNN.NUM_CLASSES", "3")
    assert run.returncode == 2
    assert "error: MODEL.SparseRCNN.NUM_CLASSES is 3" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_run_is_refused_resumed_with_another_config_or_moved_aside(train_net, squares):
    short = ("SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")
    assert train_net(*short).returncode == 0
    run = train_net(*short)
    assert run.returncode == 2 and "error: OUTPUT_DIR out holds a run: model_final" in run.stderr
    run = train_net("--resume", "SOLVER.BASE_LR", "0.5", "SOLVER.MAX_ITER", "2", *short[2:])
    assert run.returncode == 0, run.stderr
    changed = re.search("From iteration 1 on, the config is another one.*", run.stdout)[0]
    assert (
        "SOLVER.BASE_LR" in changed and "-> 0.5" in changed and "SOLVER.MAX_ITER 1 -> 2" in changed
    )
    run = train_net("--overwrite", "MODEL.WEIGHTS", "out/model_final.pth", *short)
    assert run.returncode == 2
    assert "out/model_final.pth is in OUTPUT_DIR out, whose run --overwrite moves" in run.stderr
    run = train_net("--overwrite", *short)
    assert run.returncode == 0, run.stderr
    assert (squares / "out/previous_1/model_final.pth").exists()
    assert torch.load(squares / "out/model_final.pth", weights_only=True)["iteration"] == 0

    # Another number of proposals: a new training would adapt the weights, these do not.
    other = ("MODEL.SparseRCNN.NUM_PROPOSALS", "9", "MODEL.WEIGHTS", "out/model_final.pth")
    for options in (["--eval-only"], ["--resume"]):
        run = train_net(*options, *other)
        assert run.returncode == 2, run.stderr
        line = run.stderr.splitlines()[-1]
        assert line.startswith("error:") and "Traceback" not in line
        assert "init_proposal_boxes.weight is (6, 4) in the file and (9, 4) in the model" in line
        assert "MODEL.SparseRCNN.NUM_PROPOSALS" in line


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_signal_to_all_processes_leaves_a_checkpoint(train_net, squares, number):
    options = ["SOLVER.MAX_ITER", "100000", "DATALOADER.NUM_WORKERS", "2", "DATASETS.TEST", "()"]
    process = train_net(*options, "SOLVER.CHECKPOINT_PERIOD", "2", wait=False)
    while not (squares / "out/last_checkpoint").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a cluster does it: loading processes, too
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "Stopped by a signal. --resume continues." in errors and "Traceback" not in errors
    last = (squares / "out/last_checkpoint").read_text()
    iteration = torch.load(squares / "out" / last, weights_only=True)["iteration"]
    run = train_net("--resume", *options[2:], "SOLVER.MAX_ITER", str(iteration + 2))
    assert run.returncode == 0, run.stderr
    assert f"Starting training from iteration {iteration + 1}" in run.stdout

"""train_net.py as people run it: from another folder, on their own images, on the CPU."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from sparsercnn.data.crowdhuman import convert_crowdhuman


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

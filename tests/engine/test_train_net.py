"""train_net.py as people run it: from another folder, on their own images, on the CPU."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

TINY = """
_BASE_: "{base}"
MODEL:
  FPN: {{OUT_CHANNELS: 32}}
  SparseRCNN:
    {{HIDDEN_DIM: 32, NHEADS: 4, DIM_FEEDFORWARD: 64, DIM_DYNAMIC: 8, NUM_HEADS: 2,
      NUM_PROPOSALS: 6, NUM_CLASSES: 2}}
DATASETS:
  TRAIN: ["{data}"]
  TEST: ["{data}"]
SOLVER: {{MAX_ITER: 2, STEPS: [], IMS_PER_BATCH: 2, WARMUP_ITERS: 0}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
DATALOADER: {{NUM_WORKERS: 0}}
OUTPUT_DIR: "out"
"""


@pytest.fixture
def folder(tmp_path, repository):
    """Four images of one bright square each, their annotations, and a config for them."""
    images, annotations = [], []
    for i in range(4):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[10 : 30 + i, 10:40] = 255
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
        box = [10, 10, 30, 20 + i]
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1 + i % 2, "bbox": box})
        annotations[-1].update(area=box[2] * box[3], iscrowd=0)
    categories = [{"id": 1, "name": "odd"}, {"id": 2, "name": "even"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "squares.json").write_text(json.dumps(content))
    base = repository / "configs" / "quickstart" / "sparsercnn.yaml"
    data = f"coco:{tmp_path}/squares.json@{tmp_path}"
    (tmp_path / "tiny.yaml").write_text(TINY.format(base=base, data=data))
    return tmp_path


@pytest.fixture
def train_net(folder, repository):
    def run(*arguments):
        script = repository / "projects" / "SparseRCNN" / "train_net.py"
        command = [sys.executable, script, "--num-gpus", "0", "--config-file", "tiny.yaml"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["OMP_NUM_THREADS"] = "1"
        return subprocess.run(
            [*map(str, command), *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def _metrics(folder):
    return [json.loads(line) for line in (folder / "out/metrics.json").read_text().splitlines()]


def test_train_evaluate_and_resume(train_net, folder):
    run = train_net()
    assert run.returncode == 0, run.stderr
    assert "Average Precision" in run.stdout and "| odd" in run.stdout
    trained = _metrics(folder)
    assert "total_loss" in trained[0] and "bbox/AP" in trained[-1]
    detections = json.loads((folder / "out/inference/coco_instances_results.json").read_text())
    assert detections

    run = train_net("--eval-only", "MODEL.WEIGHTS", "out/model_final.pth", "OUTPUT_DIR", "eval")
    assert run.returncode == 0, run.stderr
    again = json.loads((folder / "eval/inference/coco_instances_results.json").read_text())
    assert again == detections

    run = train_net("--resume", "SOLVER.MAX_ITER", "4")
    assert run.returncode == 0, run.stderr
    assert "Starting training from iteration 2" in run.stdout
    assert _metrics(folder)[-1]["iteration"] == 4


def test_a_mistake_ends_with_one_line(train_net):
    run = train_net("MODEL.SparseRCNN.NUM_CLASSES", "3")
    assert run.returncode == 1
    assert "error: MODEL.SparseRCNN.NUM_CLASSES is 3" in run.stderr
    assert "Traceback" not in run.stderr

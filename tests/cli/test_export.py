"""tools/export.py and the programs that take its files, as people run them."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def program(squares, repository):
    def run(script, *arguments):
        command = [sys.executable, repository / script, "--config-file", "tiny.yaml", *arguments]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        package = str(repository / "projects/SparseRCNN")
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": package}
        return subprocess.run(
            list(map(str, command)),
            cwd=squares,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


_EXPORT = ["tools/export.py", "--format", "torch_export", "--output"]
_WEIGHTS = ["--opts", "MODEL.WEIGHTS"]


@pytest.mark.slow
def test_an_exported_model_is_evaluated_and_drawn(program, squares):
    run = program("projects/SparseRCNN/train_net.py", "--num-gpus", "0")
    assert run.returncode == 0, run.stderr
    expected = json.loads((squares / "out/inference/coco_instances_results.json").read_text())

    run = program(*_EXPORT, "model.pt2", "--image", "0.png", *_WEIGHTS, "out/model_final.pth")
    assert run.returncode == 0, run.stderr
    assert "model.pt2: differs from the model in PyTorch by at most" in run.stdout
    assert not list(squares.glob("*.tmp")) and not list(squares.glob(".*.tmp"))

    run = program("projects/SparseRCNN/train_net.py", "--num-gpus", "0", "--eval-only",
                  "MODEL.WEIGHTS", "model.pt2", "OUTPUT_DIR", "exported")  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads((squares / "exported/inference/coco_instances_results.json").read_text())
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["image_id"] == theirs["image_id"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)

    run = program("projects/SparseRCNN/train_net.py", "--num-gpus", "0", "--eval-only",
                  "MODEL.WEIGHTS", "model.pt2", "OUTPUT_DIR", "sliced",
                  "TEST.SLICES.ENABLED", "True")  # fmt: skip
    assert run.returncode == 0, run.stderr

    run = program("demo/demo.py", "--input", "0.png", "--output", "drawn",
                  "--confidence-threshold", "0", *_WEIGHTS, "model.pt2")  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (squares / "drawn/0.png").exists()
    assert json.loads((squares / "drawn/detections.json").read_text())

    run = program("projects/SparseRCNN/train_net.py", "--num-gpus", "0",
                  "MODEL.WEIGHTS", "model.pt2", "OUTPUT_DIR", "trained")  # fmt: skip
    assert run.returncode == 2
    assert "model.pt2 is an exported model, which cannot be trained: use --eval-only" in run.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--format", "onnx", "--output", "a.pt2"], "files of format onnx end in .onnx"),
        (["--format", "onnx", "--output", "no/a.onnx"], "its folder does not exist"),
        (["--format", "onnx", "--output", "a.onnx", "--int8"], "--calibration-images need each"),
        (
            [*_EXPORT[1:], "a.pt2", "--int8", "--calibration-images", "0.png"],
            "--int8 needs --format onnx or openvino",
        ),
        (
            [*_EXPORT[1:], "a.pt2", "--int8", "--calibration-images", "none*.png"],
            "no images in none*.png",
        ),
    ],
)
def test_what_cannot_be_exported(monkeypatch, capsys, squares, tmp_path, arguments, message):
    from detectron2.modeling import build_model

    from sparsercnn.cli import export
    from sparsercnn.engine.checkpoint import SafeCheckpointer
    from sparsercnn.engine.setup import load_demo_config

    monkeypatch.chdir(squares)
    cfg = load_demo_config("tiny.yaml")
    SafeCheckpointer(build_model(cfg), str(squares)).save("w")
    assert export.main(["--config-file", "tiny.yaml", *arguments, *_WEIGHTS, "w.pth"]) == 2
    assert message in capsys.readouterr().err

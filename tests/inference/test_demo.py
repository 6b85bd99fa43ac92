"""The demo draws and writes what was found, and says what went wrong."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from sparsercnn.engine.setup import load_config
from sparsercnn.inference.class_names import ClassNames
from sparsercnn.inference.drawing import draw_predictions, readable_scale
from sparsercnn.inference.media import find_images, plan_outputs
from sparsercnn.inference.predictor import Predictor
from sparsercnn.inference.results import coco_results


@pytest.fixture
def demo(repository):
    spec = importlib.util.spec_from_file_location("demo_script", repository / "demo/demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Files in, files out.


def test_files_folders_and_globs_are_found_once(tmp_path, write_picture):
    paths = [write_picture(x) for x in ("in/b.png", "in/a.jpg", "deep/er/c.png", "odd[1].png")]
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    folder = str(tmp_path / "in")
    found, without = find_images([folder, paths[1], f"{tmp_path}/deep/**/*.png", paths[3], "none"])
    assert found == [paths[1], paths[0], paths[2], paths[3]]
    assert without == ["none"]


def test_outputs_never_overwrite_each_other_or_an_input(tmp_path):
    out = tmp_path / "out"
    inputs = [str(tmp_path / x) for x in ("l/a.png", "r/a.png", "r/a.bmp", "r/a.JPG", "out/b.png")]
    outputs = [os.path.relpath(x, out) for x in plan_outputs(inputs, str(out))]
    assert outputs == ["a.png", "a-2.png", "a-3.png", "a.JPG", "b-2.png"]


def detections():
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.tensor([[5.0, 10.0, 25.0, 30.0], [0.0, 0.0, 60.0, 40.0]]))
    instances.scores = torch.tensor([0.75, 0.5])
    instances.pred_classes = torch.tensor([1, 5])
    return {"instances": instances}


def test_results_are_in_cocos_format():
    labels = ClassNames(dataset_ids={0: 7, 1: 9})
    first, second = coco_results(detections(), labels, 3, "x.png")
    assert first == {
        "image_id": 3,
        "file_name": "x.png",
        "category_id": 9,
        "bbox": [5.0, 10.0, 20.0, 20.0],
        "score": 0.75,
    }
    assert second["category_id"] == 5


def test_a_drawing_shows_the_box_and_is_always_the_same():
    image = np.full((40, 60, 3), 90, np.uint8)
    names = ClassNames(["a", "b"])
    first = draw_predictions(image, detections(), names, scale=4)
    assert first.shape == (160, 240, 3) and first.dtype == np.uint8
    assert np.array_equal(
        first, draw_predictions(image, detections(), ClassNames(["a", "b"]), scale=4)
    )
    changed = (first != 90).any(axis=2)
    # The left side of the box is drawn, its middle is left alone.
    assert changed[60:100, 18:23].any(axis=1).all()
    assert not changed[60:75, 40:80].any()
    none = {"instances": detections()["instances"][:0]}
    assert np.array_equal(draw_predictions(image, none, ClassNames()), image)
    assert readable_scale(image) == 4 and readable_scale(np.zeros((500, 900, 3))) == 1


def test_masks_and_semantic_maps_are_drawn():
    image = np.full((40, 60, 3), 90, np.uint8)
    predictions = detections()
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 12:28, 8:20] = True
    predictions["instances"].pred_masks = masks
    drawn = draw_predictions(image, predictions, ClassNames(), scale=4)
    assert (drawn[60:75, 40:75] != 90).any(axis=2).all()
    semantic = torch.zeros(3, 40, 60)
    semantic[2, :, 30:] = 1
    drawn = draw_predictions(image, {"sem_seg": semantic}, ClassNames(stuff=["sky"]))
    assert (drawn != 90).any(axis=2).mean() > 0.9
    assert tuple(drawn[5, 5]) != tuple(drawn[5, 55])


# The command.


def test_a_broken_file_is_named_and_the_rest_done(files, tmp_path, write_picture, repository):
    left, right = write_picture("left/a.png", 1), write_picture("right/a.png", 2, (64, 40))
    broken = tmp_path / "left" / "b.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    out = tmp_path / "out"
    command = [sys.executable, str(repository / "demo/demo.py"), "--config-file", files]
    command += ["--input", str(tmp_path / "left"), f"{tmp_path}/right/*.png"]
    command += ["--output", str(out), "--confidence-threshold", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 1, run.stderr
    assert f"Cannot read {broken}" in run.stderr + run.stdout
    assert "1 of 3 images could not be read" in run.stderr
    assert "Traceback" not in run.stderr
    assert sorted(os.listdir(out)) == ["a-2.png", "a.png", "detections.json"]
    assert Image.open(out / "a.png").size == (4 * 64, 4 * 48)
    assert Image.open(out / "a-2.png").size == (4 * 40, 4 * 64)

    results = json.loads((out / "detections.json").read_text())
    predictor = Predictor(load_config(files))
    for path in (left, right):
        expected = predictor(path)["instances"]
        ours = [x for x in results if x["file_name"] == path]
        assert [x["score"] for x in ours] == pytest.approx(expected.scores.tolist(), abs=1e-5)
        assert {x["category_id"] for x in ours} <= {
            11,
            22,
            33,
        }  # the data set's, from the checkpoint
        x0, y0, x1, y1 = expected.pred_boxes.tensor[0].tolist()
        assert ours[0]["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-3)


def run_demo(demo, files, *arguments):
    return demo.main(["--config-file", files, *arguments])


def test_the_threshold_applies_to_what_is_drawn_and_written(
    demo, files, picture, write_picture, tmp_path
):
    path = write_picture("a.png")
    out = tmp_path / "out"
    scores = Predictor(load_config(files))(path)["instances"].scores
    for threshold, expected in ((0.0, len(scores)), (scores.median().item(), None), (1.0, 0)):
        arguments = ["--input", path, "--output", str(out)]
        assert run_demo(demo, files, *arguments, "--confidence-threshold", str(threshold)) == 0
        results = json.loads((out / "detections.json").read_text())
        assert len(results) == (int((scores >= threshold).sum()) if expected is None else expected)
        assert all(x["score"] >= threshold for x in results)
        # Each pixel is drawn as 4 x 4, whose edges older matplotlib gives to their neighbours.
        drawn = np.asarray(Image.open(out / "a.png"))[2::4, 2::4]
        assert np.array_equal(drawn, picture()) == (expected == 0)


def test_a_video_keeps_its_length_and_rate(demo, files, picture, tmp_path):
    source, out = str(tmp_path / "clip.avi"), tmp_path / "out"
    writer = cv2.VideoWriter(source, cv2.VideoWriter_fourcc(*"MJPG"), 12, (64, 48))
    assert writer.isOpened()
    for seed in range(3):
        writer.write(picture(seed)[:, :, ::-1])
    writer.release()
    arguments = ["--video-input", source, "--output", str(out), "--confidence-threshold", "0"]
    assert run_demo(demo, files, *arguments) == 0
    (name,) = (x for x in os.listdir(out) if x != "detections.json")
    assert name in ("clip.mp4", "clip.mkv")
    capture = cv2.VideoCapture(str(out / name))
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == 3 and capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 64
    results = json.loads((out / "detections.json").read_text())
    assert {x["image_id"] for x in results} == {0, 1, 2}
    assert {x["file_name"] for x in results} == {source}


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--input", "nowhere", "*.nothing"], "--input names no images: nowhere, *.nothing"),
        (["--input", "PICTURE"], "--output DIR"),
        (["--webcam"], "--output DIR"),
        (["--video-input", "nowhere.mp4", "--output", "OUT"], "nowhere.mp4 does not exist"),
        (["--video-input", "PICTURE.txt", "--output", "OUT"], "text.txt is not a video"),
        (["--input", "PICTURE", "--output", "OUT", "--opts", "MODEL.WEIGHT", "x"], "MODEL.WEIGHTS"),
        (["--input", "PICTURE", "--output", "OUT", "--opts", "MODEL.WEIGHTS", "x"], "file x does"),
        (["--input", "PICTURE", "--output", "OUT", "--opts", "MODEL.WEIGHTS", ""], "MODEL.WEIGHTS"),
    ],
)
def test_what_cannot_be_done_is_said(
    demo, files, write_picture, tmp_path, monkeypatch, capsys, arguments, expected
):
    # Windows cannot be opened here, whichever OpenCV is installed.
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    (tmp_path / "text.txt").write_text("no video")
    places = {
        "PICTURE": write_picture("a.png"),
        "PICTURE.txt": str(tmp_path / "text.txt"),
        "OUT": str(tmp_path / "out"),
    }
    assert run_demo(demo, files, *(places.get(x, x) for x in arguments)) == 2
    assert expected in capsys.readouterr().err


def test_a_name_that_leads_nowhere_among_others_is_said(
    demo, files, write_picture, tmp_path, capsys
):
    out = str(tmp_path / "out")
    assert (
        run_demo(demo, files, "--input", write_picture("a.png"), "gone.png", "--output", out) == 1
    )
    assert "No images in: gone.png" in capsys.readouterr().err
    assert os.path.isfile(os.path.join(out, "a.png"))


@pytest.mark.parametrize("threshold", ["1.5", "-1", "high"])
def test_a_threshold_outside_its_range_is_refused(demo, files, threshold):
    with pytest.raises(SystemExit) as stop:
        run_demo(demo, files, "--input", "a", "--confidence-threshold", threshold)
    assert stop.value.code == 2


def test_a_checkpoint_of_another_model_is_refused(demo, files, write_picture, tmp_path, capsys):
    shutil.copy(files, tmp_path / "c.yaml")
    arguments = ["--input", write_picture("a.png"), "--output", str(tmp_path / "out")]
    assert run_demo(demo, files, *arguments, "--opts", "MODEL.SparseRCNN.NUM_CLASSES", "5") == 2
    message = capsys.readouterr().err
    assert "MODEL.SparseRCNN.NUM_CLASSES" in message and "(3, 32)" in message

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
from detectron2.modeling import build_model
from PIL import Image

from sparsercnn.data.label_map import read_label_map
from sparsercnn.engine.checkpoint import SafeCheckpointer
from sparsercnn.engine.setup import load_config
from sparsercnn.inference.demo import run_on_images
from sparsercnn.inference.predictor import Predictor
from sparsercnn.modeling.segmentation.sem_seg_inference import SemSegInference


@pytest.fixture
def demo(repository):
    spec = importlib.util.spec_from_file_location("demo_script", repository / "demo/demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
        expected = predictor(path).instances
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
    scores = Predictor(load_config(files))(path).instances.scores
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


@pytest.mark.parametrize("flip", [False, True])
def test_a_segmentor_writes_an_overlay_and_a_label_map(danet_cfg, tmp_path, flip):
    danet_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    SafeCheckpointer(build_model(danet_cfg), str(tmp_path)).save("model")
    danet_cfg.TEST.SEM_SEG.FLIP = flip
    predictor = Predictor(danet_cfg)
    assert isinstance(predictor.model, SemSegInference) == flip
    path = tmp_path / "in" / "picture.jpg"
    path.parent.mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    out = tmp_path / "out"
    assert run_on_images(predictor, [str(path)], str(out), threshold=0.5) == []
    assert np.array(Image.open(out / "picture.jpg")).shape[2] == 3
    labels = read_label_map(out / "predicted_labels" / "picture.jpg.png")
    segmentation = predictor(str(path))
    assert labels.shape == (60, 90)
    np.testing.assert_array_equal(labels, segmentation.labels)
    results = json.loads((out / "detections.json").read_text())
    assert results == segmentation.to_dict() and results[0]["file_name"] == str(path)


def test_label_maps_of_pictures_with_similar_names_are_kept_apart(
    danet_cfg, tmp_path, write_picture
):
    predictor = Predictor(model=build_model(danet_cfg), augmentations=[], input_format="RGB")
    paths = [write_picture(f"in/{name}", size=(8, 8)) for name in ("a.jpg", "a.jpg.png", "b.PNG")]
    assert run_on_images(predictor, paths, str(tmp_path / "out"), threshold=0.5) == []
    written = sorted(os.listdir(tmp_path / "out/predicted_labels"))
    assert written == ["a.jpg-2.png", "a.jpg.png", "b.PNG"]


def test_pictures_of_extreme_shapes_are_drawn_or_reported(files, tmp_path, capsys, demo):
    """Neither resizing, nor the model, nor drawing ends the run."""
    os.makedirs(tmp_path / "in")
    sizes = {"a.png": (60_000, 1), "b.png": (1, 60_000), "c.png": (70_000, 90), "d.png": (1, 1)}
    sizes["e.png"] = (20_000, 90)  # enlarged by 4, it could not be drawn
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / "in" / name)
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert run_demo(demo, files, *arguments) == 1
    error = capsys.readouterr().err
    for name in ("a.png", "b.png"):
        assert f"in/{name}: An image of" in error
    assert "in/c.png: A picture of 70000 x 90 pixels cannot be drawn" in error
    assert "3 of 5 images could not be read" in error
    assert sorted(os.listdir(tmp_path / "out")) == ["d.png", "detections.json", "e.png"]
    assert Image.open(tmp_path / "out/e.png").size == (3 * 20_000, 3 * 90)


def test_nothing_is_written_among_the_inputs(demo, files, write_picture, tmp_path, capsys):
    path = write_picture("in/x.png")
    others = {"in/x-2.png": b"of the user", "in/detections.json": b"{}"}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    write_picture("in/predicted_labels/y.png")
    labels = str(tmp_path / "in/predicted_labels/*.png")
    before = sorted(tmp_path.rglob("in/**"))
    for inputs, output in ((path, "in"), (path, "link"), (path, "in/../in/"), (labels, "in")):
        arguments = ["--input", inputs, "--output", str(tmp_path / output)]
        assert run_demo(demo, files, *arguments) == 2
        error = capsys.readouterr().err
        assert "is the folder of the input" in error and "Give another folder" in error
    assert run_demo(demo, files, "--video-input", path, "--output", str(tmp_path / "in")) == 2
    assert "is the folder of the input" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("in/**")) == before
    assert all((tmp_path / name).read_bytes() == content for name, content in others.items())
    # A folder inside that of the inputs is another one.
    arguments = ["--input", path, "--output", str(tmp_path / "in/drawn")]
    assert run_demo(demo, files, *arguments) == 0


def test_postscript_and_a_pipe_are_reported(demo, files, write_picture, tmp_path, capsys):
    write_picture("in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 10\n")
    os.mkfifo(tmp_path / "in/pipe")
    arguments = ["--input", str(tmp_path / "in"), str(tmp_path / "in/pipe")]
    assert run_demo(demo, files, *arguments, "--output", str(tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert f"Cannot read {tmp_path}/in/b.png: it is damaged, or in none of the formats" in error
    assert f"Cannot read {tmp_path}/in/pipe: it is a pipe" in error

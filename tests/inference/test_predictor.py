"""One image gives what evaluation finds in it, under the right names."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from PIL import Image

from sparsercnn.data import SparseRCNNDatasetMapper
from sparsercnn.engine.checkpoint import SafeCheckpointer
from sparsercnn.engine.setup import load_config
from sparsercnn.errors import ConfigError
from sparsercnn.inference.predictor import ImageError, Predictor


def assert_same(actual, expected):
    assert len(actual) == len(expected) > 0
    for field in ("scores", "pred_classes"):
        torch.testing.assert_close(actual.get(field), expected.get(field), rtol=0, atol=0)
    torch.testing.assert_close(actual.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=0)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("channel_order", ["RGB", "BGR"])
def test_demo_and_evaluation_agree(files, write_picture, channel_order, ending):
    cfg = load_config(files, ["INPUT.FORMAT", channel_order])
    path = write_picture(f"a{ending}")
    predictor = Predictor(cfg)
    sample = SparseRCNNDatasetMapper(cfg, is_train=False)(
        {"file_name": path, "image_id": 1, "height": 48, "width": 64}
    )
    assert sample["image"].shape == (3, 96, 128)
    with torch.no_grad():
        expected = predictor.model([sample])[0]["instances"]
    assert_same(predictor(path).instances, expected)
    if ending == ".png":  # OpenCV and Pillow may decode JPEG differently
        assert_same(predictor(cv2.imread(path), channels="BGR").instances, expected)
        assert_same(predictor(cv2.imread(path)[:, :, ::-1]).instances, expected)
    # The order of the channels matters to this model, or all of the above would prove nothing.
    assert not torch.equal(predictor(cv2.imread(path)).instances.scores, expected.scores)


def test_pictures_are_turned_upright_as_in_evaluation(files, picture, tmp_path):
    path = str(tmp_path / "turned.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(picture()).save(path, exif=exif)
    predictor = Predictor(load_config(files))
    upright = predictor.read(path)
    assert upright.shape == (64, 48, 3)
    assert predictor(path).instances.image_size == (64, 48)


def test_the_models_threshold_is_obeyed(files, write_picture):
    path = write_picture("a.png")
    scores = Predictor(load_config(files))(path).instances.scores
    threshold = scores.median().item()
    cfg = load_config(files, ["MODEL.SparseRCNN.SCORE_THRESH_TEST", threshold])
    kept = Predictor(cfg)(path).instances.scores
    assert 0 < len(kept) < len(scores) and kept.min() >= threshold


@pytest.mark.parametrize("channel_order", ["RGB", "BGR", "YUV-BT.601"])
def test_colours_come_back_for_drawing(picture, write_picture, channel_order):
    path = write_picture("a.png")
    predictor = Predictor(model=torch.nn.Identity(), augmentations=[], input_format=channel_order)
    rgb = predictor.to_rgb(predictor.read(path))
    assert rgb.dtype == np.uint8
    assert np.abs(rgb.astype(int) - picture()).max() <= 1


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing"])
def test_an_unreadable_picture_is_named(write_picture, damage):
    path = write_picture("a.png", size=(200, 200))
    content = Path(path).read_bytes()
    broken = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"no picture"}
    if damage == "missing":
        os.remove(path)
    else:
        Path(path).write_bytes(broken[damage])
    predictor = Predictor(model=torch.nn.Identity(), augmentations=[])
    with pytest.raises(ImageError, match="a.png"):
        predictor.read(path)


# What an image may be.


def load_calm(files, options=()):
    """A predictor whose stages move boxes by little, so that all stay within the image."""
    predictor = Predictor(load_config(files, options))
    with torch.no_grad():
        for stage in predictor.model.head.head_series:
            stage.bboxes_delta.weight.mul_(0.1)
    return predictor


@pytest.fixture
def predictor(files):
    return load_calm(files)


def test_all_kinds_of_images_give_the_same(predictor, picture, write_picture):
    path, rgb = write_picture("a.png"), picture()
    expected = predictor(path)
    alpha = np.full_like(rgb[:, :, :1], 7)
    for image in (
        Path(path),
        rgb,
        rgb[:, ::-1][:, ::-1],  # of other strides
        np.concatenate([rgb, alpha], axis=2),
        Image.open(path),
        Image.fromarray(rgb).convert("RGBA"),
    ):
        assert_same(predictor(image).instances, expected.instances)
    bgra = np.concatenate([rgb[:, :, ::-1], alpha], axis=2)
    for image in (rgb[:, :, ::-1], bgra):
        assert_same(predictor(image, channels="BGR").instances, expected.instances)
    for image in (Path(path), rgb, Image.open(path)):
        np.testing.assert_array_equal(predictor(image).image, rgb)


def test_grey_images_are_those_with_three_equal_channels(predictor, picture):
    grey = picture()[:, :, 0]
    expected = predictor(np.repeat(grey[:, :, None], 3, axis=2)).instances
    for image in (grey, grey[:, :, None], Image.fromarray(grey)):
        assert_same(predictor(image).instances, expected)
        assert_same(predictor(image, channels="BGR").instances, expected)


def test_pillows_images_are_turned_as_files_are(predictor, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(tmp_path / "turned.png", exif=exif)
    found = predictor(Image.open(tmp_path / "turned.png"))
    assert found.image.shape == (64, 48, 3) and found.file_name.endswith("turned.png")
    assert_same(found.instances, predictor(tmp_path / "turned.png").instances)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_list_gives_what_its_images_give_one_by_one(
    predictor, picture, write_picture, batch_size
):
    images = [write_picture("a.png", 1), picture(2, (64, 40)), picture(3), picture(4, (64, 40))]
    images = [*images, Image.fromarray(picture(5))]
    called = []
    predictor.model.register_forward_pre_hook(lambda _, inputs: called.append(len(inputs[0])))
    together = predictor(images, batch_size=batch_size)
    assert sum(called) == 5
    assert max(called) == {1: 1, 2: 1, 8: 3}[batch_size]  # three have the same size
    for found, image in zip(together, images, strict=True):
        alone = predictor(image)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        assert found.names == alone.names and len(found) > 0
    assert together[0].file_name == images[0] and together[1].file_name is None
    assert predictor([]) == [] and len(predictor(tuple(images[:1]))) == 1


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_without_images_is_refused(picture, batch_size):
    predictor = Predictor(model=torch.nn.Identity(), augmentations=[])
    with pytest.raises(ConfigError, match=f"batch_size is {batch_size}; it must be at least 1"):
        predictor([picture(), picture()], batch_size=batch_size)


def test_the_threshold_of_a_call_leaves_out_what_is_below(predictor, picture):
    scores = predictor(picture()).scores
    threshold = float(np.median(scores))
    assert predictor(picture(), threshold=threshold).scores.tolist() == [
        x for x in scores.tolist() if x >= threshold
    ]


@pytest.mark.parametrize(
    "image, expected",
    [
        (np.zeros((8, 8, 3), np.float32), "holds float32; it must be uint8"),
        (np.full((8, 8, 3), np.nan), "holds float64, some of it NaN or infinite; it must be uint8"),
        (np.zeros((8, 8, 3), np.int64), "holds int64"),
        (np.zeros((8, 8, 3), bool), "holds bool"),
        (np.zeros((0, 8, 3), np.uint8), "8 x 0 pixels is empty"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "Several images are given as a list"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\)"),
        (np.uint8(7), r"cannot be a uint8"),
        (np.broadcast_to(np.uint8(0), (60_000, 60_000, 3)), "60000 x 60000 pixels is too large"),
        (np.zeros((1, 5000), np.uint8), "5000 x 1 pixels cannot be resized"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "cannot be a Tensor"),
        (None, "cannot be a NoneType"),
        ("nowhere.png", "Cannot read nowhere.png: .*No such file"),
        (Path("/"), "Cannot read /: .*folder"),
        ([np.zeros((8, 8, 3), np.uint8), "gone.jpg"], "Cannot read gone.jpg"),
    ],
)
def test_what_is_no_image_is_told(image, expected):
    resize = ResizeShortestEdge(96, 128)
    predictor = Predictor(model=torch.nn.Identity(), augmentations=[resize])
    with pytest.raises(ImageError, match=expected):
        predictor(image)


def test_a_file_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    predictor = Predictor(model=torch.nn.Identity(), augmentations=[])
    Image.new("1", (60_000, 60_000)).save(tmp_path / "huge.png")
    for image in (tmp_path / "huge.png", str(tmp_path / "huge.png")):
        with pytest.raises(ImageError, match=r"huge\.png.*3600000000 pixels"):
            predictor(image)


def test_other_orders_of_channels_are_told(predictor, picture):
    with pytest.raises(ImageError, match="channels is 'rgb'; it must be RGB or BGR"):
        predictor(picture(), channels="rgb")


# Stages.


@pytest.mark.parametrize("options", [[], ["TEST.DTYPE", "bfloat16"], ["TEST.OPTIMIZE", "none"]])
def test_each_stage_gives_what_a_model_that_ends_there_gives(files, picture, options):
    predictor = load_calm(files, options)
    stages = predictor.stages(picture())
    assert len(stages) == 2
    assert_same(stages[-1].instances, predictor(picture()).instances)
    assert not np.allclose(stages[0].boxes, stages[1].boxes, atol=0.5)
    head = predictor.model.head
    head.head_series = head.head_series[:1]
    assert_same(stages[0].instances, predictor(picture()).instances)
    best = predictor.stages(picture(), threshold=float(stages[0].scores[2]))
    assert len(best[0]) >= 3 and best[0].scores.min() >= stages[0].scores[2]


def test_a_model_without_stages_says_so(danet_cfg, tmp_path, picture):
    danet_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    SafeCheckpointer(build_model(danet_cfg), str(tmp_path)).save("model")
    with pytest.raises(ConfigError, match="SemanticSegmentor has no stages"):
        Predictor(danet_cfg).stages(picture())

"""One image gives what evaluation finds in it, under the right names."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from sparsercnn.data import SparseRCNNDatasetMapper
from sparsercnn.engine.setup import load_config
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
    for image in (predictor.read(path), predictor.from_bgr(cv2.imread(path))):
        rgb = predictor.to_rgb(image)
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

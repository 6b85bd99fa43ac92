"""Segmentations drawn and written by the demo."""

import json

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from PIL import Image

from sparsercnn import add_sparsercnn_config
from sparsercnn.data.label_map import read_label_map
from sparsercnn.engine.checkpoint import SafeCheckpointer
from sparsercnn.inference.demo import run_on_images
from sparsercnn.inference.predictor import Predictor
from sparsercnn.inference.results import save_label_map
from sparsercnn.modeling.segmentation.sem_seg_inference import SemSegInference


def test_classes_come_back_and_have_colours(tmp_path):
    labels = torch.randint(0, 7, (9, 14))
    scores = torch.nn.functional.one_hot(labels, 7).permute(2, 0, 1).float()
    path = save_label_map({"sem_seg": scores}, str(tmp_path / "a.JPG"))
    assert path == str(tmp_path / "predicted_labels" / "a.JPG.png")
    np.testing.assert_array_equal(read_label_map(path), labels)
    with Image.open(path) as image:
        colours = {
            label: image.convert("RGB").getpixel((x, y)) for (y, x), label in np.ndenumerate(labels)
        }
    assert len(set(colours.values())) == 7
    path = save_label_map({"sem_seg": scores}, str(tmp_path / "b.png"))
    assert path.endswith("/predicted_labels/b.png")


def test_detections_have_no_label_map(tmp_path):
    assert save_label_map({"instances": None}, str(tmp_path / "a.png")) is None
    assert not (tmp_path / "predicted_labels").exists()


@pytest.fixture
def cfg(repository, tmp_path):
    """The quickstart's segmentor with few channels, and random weights."""
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(repository / "configs/quickstart/danet.yaml"))
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    SafeCheckpointer(build_model(cfg), str(tmp_path)).save("model")
    return cfg


@pytest.mark.parametrize("flip", [False, True])
def test_the_demo_writes_an_overlay_and_a_label_map(cfg, tmp_path, flip):
    cfg.TEST.SEM_SEG.FLIP = flip
    predictor = Predictor(cfg)
    assert isinstance(predictor.model, SemSegInference) == flip
    path = tmp_path / "in" / "picture.jpg"
    path.parent.mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    out = tmp_path / "out"
    assert run_on_images(predictor, [str(path)], str(out), threshold=0.5) == []
    assert json.loads((out / "detections.json").read_text()) == []
    assert np.array(Image.open(out / "picture.jpg")).shape[2] == 3
    labels = read_label_map(out / "predicted_labels" / "picture.jpg.png")
    scores = predictor(str(path))["sem_seg"]
    assert labels.shape == (60, 90)
    np.testing.assert_array_equal(labels, scores.argmax(0))

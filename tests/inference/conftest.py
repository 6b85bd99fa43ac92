"""Pictures, what is found in one, and a tiny model with weights."""

import os

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from sparsercnn.engine.checkpoint import SafeCheckpointer

NAMES = ["mug", "spoon", "plate"]
DATASET_IDS = {11: 0, 22: 1, 33: 2}


def make_picture(seed=0, size=(48, 64)):
    """(H, W, 3), RGB: no two channels, halves or corners are alike."""
    height, width = size
    pixels = np.random.RandomState(seed).randint(0, 60, (height, width, 3))
    pixels[: height // 2, : width // 3, 0] += 190
    pixels[height // 3 :, width // 2 :, 1] += 90
    pixels[height // 2 :, : width // 4, 2] += 140
    return pixels.astype(np.uint8)


@pytest.fixture
def picture():
    return make_picture


@pytest.fixture
def write_picture(tmp_path):
    def write(name, seed=0, size=(48, 64)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_picture(seed, size)).save(path)
        return str(path)

    return write


@pytest.fixture
def files(tiny_cfg, tmp_path):
    """A config of a tiny model with random weights, and these, as the command line wants them."""
    tiny_cfg.INPUT.MIN_SIZE_TEST = 96
    tiny_cfg.DATASETS.TEST = ("nobody_registered_this",)
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "weights" / "model.pth")
    os.makedirs(tmp_path / "weights")
    model = build_model(tiny_cfg)
    metadata = {"thing_classes": NAMES, "thing_dataset_id_to_contiguous_id": DATASET_IDS}
    SafeCheckpointer(model, str(tmp_path / "weights"), metadata=metadata).save("model")
    config_file = tmp_path / "weights" / "config.yaml"
    config_file.write_text(tiny_cfg.dump())
    return str(config_file)


@pytest.fixture
def detections():
    """Two boxes, of an image of 40 x 60, as a model gives them."""
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.tensor([[5.0, 10.0, 25.0, 30.0], [0.0, 0.0, 60.0, 40.0]]))
    instances.scores = torch.tensor([0.75, 0.5])
    instances.pred_classes = torch.tensor([1, 5])
    return {"instances": instances}

"""What the tests share: a Sparse R-CNN small enough to build in a moment, and inputs for it."""

import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances

from sparsercnn import add_sparsercnn_config
from sparsercnn.structures import Targets

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _logs_reach_caplog(monkeypatch):
    """Even if another test has set up the loggers as a program does, for its own output alone."""
    for name in ("detectron2", "sparsercnn"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


@pytest.fixture
def repository():
    return REPOSITORY


@pytest.fixture
def tiny_cfg():
    """The quickstart's model with two stages, 32 channels and 6 proposals."""
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(REPOSITORY / "configs/quickstart/sparsercnn.yaml"))
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.SparseRCNN.HIDDEN_DIM = 32
    cfg.MODEL.SparseRCNN.NHEADS = 4
    cfg.MODEL.SparseRCNN.DIM_FEEDFORWARD = 64
    cfg.MODEL.SparseRCNN.DIM_DYNAMIC = 8
    cfg.MODEL.SparseRCNN.NUM_HEADS = 2
    cfg.MODEL.SparseRCNN.NUM_PROPOSALS = 6
    cfg.MODEL.SparseRCNN.PROPOSALS.INIT = "image"
    return cfg


@pytest.fixture
def make_instances():
    def make(size, boxes=(), classes=()):
        """Ground truth of an image of (height, width) `size`."""
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        return instances

    return make


@pytest.fixture
def make_targets(make_instances):
    def make(*images):
        """Targets of images given as (size, boxes, classes)."""
        return Targets.from_instances([make_instances(*image) for image in images], "cpu")

    return make


@pytest.fixture
def make_input(make_instances):
    def make(size, boxes=(), classes=()):
        """A training input of random pixels."""
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        return {"image": image, "instances": make_instances(size, boxes, classes)}

    return make

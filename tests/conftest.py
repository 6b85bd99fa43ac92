"""What the tests share: models small enough to build in a moment, and inputs for them."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from sparsercnn import add_sparsercnn_config
from sparsercnn.structures import Targets

REPOSITORY = Path(__file__).resolve().parents[1]

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


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _logs_reach_caplog(monkeypatch):
    """Even if another test has set up the loggers as a program does, for its own output alone."""
    for name in ("detectron2", "sparsercnn"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


@pytest.fixture(autouse=True)
def _entries_of_a_test_end_with_it():
    """Another test may register the same data set, in a cache folder of its own."""
    before = {*DatasetCatalog, *MetadataCatalog}
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in {*catalog} - before:
            if ":" in name:
                catalog.remove(name)


@pytest.fixture
def repository():
    return REPOSITORY


@pytest.fixture
def tiny_cfg():
    """The model of the quickstarts with two stages, 32 channels and 6 proposals."""
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(REPOSITORY / "configs/quickstart/Base-R18.yaml"))
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
def danet_cfg():
    """The quickstart's segmentor with an eighth of its channels."""
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(REPOSITORY / "configs/quickstart/danet.yaml"))
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16
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


@pytest.fixture
def squares(tmp_path):
    """See :func:`write_squares`."""
    return write_squares(tmp_path)


@pytest.fixture(scope="session")
def make_squares():
    """:func:`write_squares`, for fixtures of a wider scope than a test."""
    return write_squares


def write_squares(folder):
    """Make a folder of four images of one bright square each, their annotations, and tiny.yaml."""
    images, annotations = [], []
    for i in range(4):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[10 : 30 + i, 10:40] = 255
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
        box = [10, 10, 30, 20 + i]
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1 + i % 2, "bbox": box})
        annotations[-1].update(area=box[2] * box[3], iscrowd=0)
    categories = [{"id": 1, "name": "odd"}, {"id": 2, "name": "even"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "squares.json").write_text(json.dumps(content))
    base = REPOSITORY / "configs" / "quickstart" / "Base-R18.yaml"
    data = f"coco:{folder}/squares.json@{folder}"
    (folder / "tiny.yaml").write_text(TINY.format(base=base, data=data))
    return folder

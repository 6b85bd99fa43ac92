"""A small data set of each kind, to be spoilt in one place by each case."""

import copy
import json
import signal

import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image

from sparsercnn.config import add_sparsercnn_config
from sparsercnn.data import check_num_classes, register_datasets

WIDTH, HEIGHT = 20, 10


@pytest.fixture(autouse=True)
def _nothing_waits_for_ever(request):
    minutes = 30 if "slow" in request.keywords else 3

    def stop(*_):
        raise TimeoutError(f"this took more than {minutes} minutes")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60 * minutes)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(autouse=True)
def _cache_in_tmp_path(tmp_path, monkeypatch):
    (tmp_path / "data_sets").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data_sets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture
def cfg():
    """Loaders in the main process, one image a batch, small sizes."""
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SparseRCNN"
    cfg.MODEL.SparseRCNN.NUM_CLASSES = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    cfg.INPUT.MIN_SIZE_TEST = HEIGHT
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.FORMAT = "RGB"
    return cfg


@pytest.fixture
def content():
    """Two images of 20 x 10 with two objects, all fields given."""
    polygon = [[2, 1, 7.5, 1, 7.5, 5]]
    objects = [(11, 1, 3, [2, 1, 5, 4]), (12, 2, 7, [0.5, 0, 8, 6])]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": copy.deepcopy(polygon),
            }
            for number, image_id, category_id, box in objects
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


@pytest.fixture
def write(tmp_path, cfg):
    """Writes images and annotations (a dict, text or bytes); gives (cfg, entry)."""

    def write(annotations):
        folder = tmp_path / "images"
        folder.mkdir()
        for i in (1, 2):
            pixels = np.full((HEIGHT, WIDTH, 3), 40 * i, np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        if isinstance(annotations, dict):
            annotations = json.dumps(annotations)
        if isinstance(annotations, str):
            annotations = annotations.encode()
        (tmp_path / "set.json").write_bytes(annotations)
        entry = f"coco:{tmp_path}/set.json@{folder}"
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (entry,)
        return cfg, entry

    return write


@pytest.fixture
def start():
    """What a run does with its data sets before it builds a model."""

    def start(cfg):
        register_datasets([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
        check_num_classes(cfg)

    return start

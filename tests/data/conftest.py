"""Small data sets on disk, in COCO's and in VOC's form."""

import json

import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image

from sparsercnn.config import add_sparsercnn_config

WIDTH, HEIGHT = 20, 10


@pytest.fixture(autouse=True)
def _cache_in_tmp_path(tmp_path, monkeypatch):
    """Nothing is written into the user's data sets or cache."""
    (tmp_path / "data_sets").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data_sets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture
def cfg():
    """Loaders in the main process, two images a batch, small sizes."""
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SparseRCNN"
    cfg.MODEL.SparseRCNN.NUM_CLASSES = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    cfg.INPUT.MIN_SIZE_TEST = HEIGHT
    return cfg


@pytest.fixture
def coco_content():
    """Three images of 20 x 10, with two objects, one and none. Category ids have gaps."""
    annotations = [
        {"id": 11, "image_id": 1, "category_id": 3, "bbox": [2, 1, 5, 4]},
        {"id": 12, "image_id": 1, "category_id": 7, "bbox": [10.5, 2, 8, 6]},
        {"id": 13, "image_id": 2, "category_id": 7, "bbox": [0, 0, 20, 10]},
    ]
    for annotation in annotations:
        annotation["iscrowd"] = 0
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3)
        ],
        "annotations": annotations,
        # Not in the order of their ids.
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


@pytest.fixture
def write_coco(tmp_path):
    def write(content, name="set"):
        """Write annotations and random images; return the data set's entry."""
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(0)
        for image in content["images"]:
            pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / image["file_name"])
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return f"coco:{path}@{folder}"

    return write


@pytest.fixture
def write_voc(tmp_path):
    def write(splits, class_names=None, name="voc", size=(WIDTH, HEIGHT)):
        """Write a data set in VOC's layout and return its root.

        Args:
            splits: name -> image name -> objects (class, xmin, ymin, xmax, ymax, difficult).
            size: as annotated; None: not annotated.
        """
        root = tmp_path / name
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / folder).mkdir(parents=True)
        if class_names:
            (root / "classes.txt").write_text("\n".join(class_names) + "\n")
        for split, images in splits.items():
            (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
            for image_name, objects in images.items():
                Image.new("RGB", (WIDTH, HEIGHT)).save(root / "JPEGImages" / f"{image_name}.jpg")
                text = "<annotation>"
                if size:
                    text += f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
                for class_name, *corners, difficult in objects:
                    keys = ("xmin", "ymin", "xmax", "ymax")
                    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, corners, strict=True))
                    text += (
                        f"<object><name>{class_name}</name><difficult>{difficult}</difficult>"
                        f"<bndbox>{box}</bndbox></object>"
                    )
                (root / "Annotations" / f"{image_name}.xml").write_text(text + "</annotation>")
        return root

    return write

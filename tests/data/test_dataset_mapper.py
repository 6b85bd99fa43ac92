import logging
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from sparsercnn.data import DataError, SparseRCNNDatasetMapper
from sparsercnn.data.dataset_mapper import build_train_augmentations

HAS_SHAPELY = find_spec("shapely") is not None
PATCH = (30, 20, 60, 50)  # the white object's corners in the black image


@pytest.fixture
def record(tmp_path):
    """A white patch in a black image of 100 x 80, with its box and polygon."""
    pixels = np.zeros((80, 100, 3), dtype=np.uint8)
    x0, y0, x1, y1 = PATCH
    pixels[y0:y1, x0:x1] = 255
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    annotation = {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
    }
    return {
        "file_name": str(path),
        "image_id": 5,
        "width": 100,
        "height": 80,
        "annotations": [annotation],
    }


def _boxes(sample):
    return sample["instances"].gt_boxes.tensor


def test_without_a_config_a_flip_mirrors_the_box(record):
    mapper = SparseRCNNDatasetMapper(
        True, augmentations=[T.RandomFlip(prob=1.0)], image_format="RGB"
    )
    sample = mapper(record)
    # 100 - 60 = 40 and 100 - 30 = 70
    assert _boxes(sample).tolist() == [[40, 20, 70, 50]]
    assert sample["image"][:, 20:50, 40:70].min() == 255
    assert sample["image"].sum() == 3 * 30 * 30 * 255
    assert sample["instances"].gt_classes.tolist() == [1]


def test_evaluation_resizes_and_holds_no_ground_truth(cfg, record):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 160, 1000
    cfg.INPUT.FORMAT = "RGB"
    sample = SparseRCNNDatasetMapper(cfg, is_train=False)(record)
    assert sample["image"].shape == (3, 160, 200)
    assert sample["image"].dtype == torch.uint8
    assert (sample["height"], sample["width"]) == (80, 100)
    assert "instances" not in sample
    assert "annotations" not in sample
    # What the demo does: detectron2's reading, and its augmentations for testing.
    image = T.AugInput(detection_utils.read_image(record["file_name"], "RGB"))
    T.AugmentationList(detection_utils.build_augmentation(cfg, is_train=False))(image)
    assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), image.image)


@pytest.mark.parametrize(("order", "channel"), [("RGB", 0), ("BGR", 2)])
def test_channels_are_in_the_configs_order(cfg, tmp_path, order, channel):
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "red.png")
    cfg.INPUT.FORMAT = order
    for is_train in (True, False):
        mapper = SparseRCNNDatasetMapper(cfg, is_train=is_train)
        sample = mapper({"file_name": str(tmp_path / "red.png"), "annotations": []})
        assert sample["image"].float().mean(dim=(1, 2)).argmax() == channel


def test_the_mapper_leaves_its_record_as_it_was(cfg, record):
    before = repr(record)
    SparseRCNNDatasetMapper(cfg)(record)
    assert repr(record) == before


def test_augmentations_are_the_originals(cfg):
    names = [type(x).__name__ for x in build_train_augmentations(cfg)]
    assert names == ["RandomFlip", "ResizeShortestEdge"]
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute_range", (384, 600)
    cfg.INPUT.MIN_SIZE_TRAIN = (480, 800)
    flip, crop, resize = build_train_augmentations(cfg)
    assert flip.prob == 0.5
    assert crop.prob == 0.5
    smaller, region = crop.aug.augs
    assert smaller.short_edge_length == (400, 500, 600)
    assert (region.crop_type, region.crop_size) == ("absolute_range", (384, 600))
    assert resize.short_edge_length == (480, 800)
    cfg.INPUT.RANDOM_FLIP = "none"
    assert len(build_train_augmentations(cfg)) == 2


@pytest.mark.parametrize(
    "mask_on",
    [False, pytest.param(True, marks=pytest.mark.skipif(not HAS_SHAPELY, reason="no shapely"))],
)
def test_after_a_crop_boxes_are_still_on_their_objects(cfg, record, mask_on):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute_range", (150, 300)
    cfg.INPUT.MIN_SIZE_TRAIN = (64, 96)
    cfg.MODEL.MASK_ON = mask_on
    mapper = SparseRCNNDatasetMapper(cfg)
    np.random.seed(0)
    num_whole = num_empty = 0
    for _ in range(60):
        sample = mapper(record)
        height, width = sample["image"].shape[1:]
        assert min(height, width) in (64, 96)
        boxes = _boxes(sample)
        white = sample["image"][0] > 127
        num_empty += len(boxes) == 0
        num_whole += abs(width / height - 100 / 80) < 0.02
        if len(boxes) == 0:
            assert white.float().mean() < 0.01
            continue
        x0, y0, x1, y1 = boxes[0].tolist()
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        rows, columns = torch.nonzero(white, as_tuple=True)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert torch.stack(seen).float() == pytest.approx(boxes[0], abs=1.6)
    assert 20 <= num_whole <= 45, "half of the images are not cropped"
    assert 1 <= num_empty <= 25, "an image that lost its object stays"


def test_masks_are_kept_with_mask_on_alone(cfg, record):
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN = (80,)
    assert not SparseRCNNDatasetMapper(cfg)(record)["instances"].has("gt_masks")
    cfg.MODEL.MASK_ON = True
    masks = SparseRCNNDatasetMapper(cfg)(record)["instances"].gt_masks
    assert masks.area().item() == 30 * 30
    cfg.INPUT.MASK_FORMAT = "bitmask"
    masks = SparseRCNNDatasetMapper(cfg)(record)["instances"].gt_masks
    x0, y0, x1, y1 = PATCH
    assert masks.tensor[0, y0:y1, x0:x1].all()
    assert masks.tensor.sum() == 30 * 30


def test_cropping_masks_without_shapely_says_what_to_install(cfg, monkeypatch):
    monkeypatch.setattr("sparsercnn.data.dataset_mapper.find_spec", lambda name: None)
    cfg.INPUT.CROP.ENABLED = True
    SparseRCNNDatasetMapper(cfg)
    cfg.MODEL.MASK_ON = True
    SparseRCNNDatasetMapper(cfg, is_train=False)
    with pytest.raises(ImportError, match="pip install shapely"):
        SparseRCNNDatasetMapper(cfg)


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("mask_on", [False, True])
def test_images_without_objects_and_crowds(cfg, record, crop, mask_on, monkeypatch):
    # Nothing is there to be cropped.
    monkeypatch.setattr("sparsercnn.data.dataset_mapper.find_spec", lambda name: True)
    cfg.INPUT.CROP.ENABLED = crop
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute_range", (384, 600)
    cfg.MODEL.MASK_ON = mask_on
    record["annotations"][0]["iscrowd"] = 1
    for annotations in (record["annotations"], []):
        sample = SparseRCNNDatasetMapper(cfg)({**record, "annotations": annotations})
        assert _boxes(sample).shape == (0, 4)
        assert sample["instances"].gt_classes.shape == (0,)
        assert "annotations" not in sample


def _damage(path, how):
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write({"truncated": content[: len(content) // 2], "text": b"hello", "empty": b""}[how])


@pytest.mark.parametrize("how", ["truncated", "text", "empty"])
@pytest.mark.parametrize("is_train", [True, False])
def test_a_broken_image_is_an_error_that_names_it(cfg, record, how, is_train):
    _damage(record["file_name"], how)
    with pytest.raises(DataError, match=r"Unusable image .*image\.png.*DATASETS\.SKIP_INVALID"):
        SparseRCNNDatasetMapper(cfg, is_train)(record)


def test_an_image_of_another_size_is_an_error_that_names_it(cfg, record):
    record["width"] = 101
    with pytest.raises(DataError, match=r"image\.png.*\(100, 80\).*\(101, 80\)"):
        SparseRCNNDatasetMapper(cfg)(record)


def test_with_skip_invalid_training_passes_over_broken_images(cfg, record, caplog):
    cfg.DATASETS.SKIP_INVALID = True
    mapper = SparseRCNNDatasetMapper(cfg)
    assert mapper(record) is not None
    _damage(record["file_name"], "truncated")
    with caplog.at_level(logging.WARNING):
        assert mapper(record) is None
        assert mapper(record) is None
    assert record["file_name"] in caplog.text
    assert "2 times in this worker" in caplog.text
    with pytest.raises(DataError):  # evaluation must not lose images on the way
        SparseRCNNDatasetMapper(cfg, is_train=False)(record)


def test_a_turned_photograph_is_set_upright(cfg, tmp_path):
    image = Image.new("RGB", (20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    record = {"file_name": str(tmp_path / "turned.jpg"), "width": 10, "height": 20}
    sample = SparseRCNNDatasetMapper(cfg, is_train=False)(record)
    assert sample["image"].shape == (3, 20, 10)

import contextlib
import io
import json
import logging
from itertools import islice
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparsercnn.data import (
    DataError,
    build_test_loader,
    build_train_loader,
    check_test_sets,
    leave_out_invalid,
    register_datasets,
    register_shapes,
)
from sparsercnn.evaluation import COCOEvaluator


@pytest.fixture
def use(cfg, write_coco):
    def use(content, **options):
        """A config that trains and tests on `content`."""
        entry = write_coco(content)
        register_datasets([entry])
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (entry,)
        cfg.DATASETS.update(options)
        return cfg, entry

    return use


def _seen(loader, num_batches=20):
    return {sample["image_id"] for batch in islice(loader, num_batches) for sample in batch}


def _ap_of_a_perfect_detector(ground_truth_file, loader):
    """COCO's AP of detections that are just the valid boxes of the loader's images."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(ground_truth_file)
        ids = {sample["image_id"] for batch in loader for sample in batch}
        results = [
            {**{key: x[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9}
            for x in truth.dataset["annotations"]
            if x["image_id"] in ids and x["bbox"][2] > 0
        ]
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_training_sees_all_images_and_their_boxes(use, coco_content):
    cfg, _ = use(coco_content)
    assert _seen(build_train_loader(cfg)) == {1, 2, 3}
    batch = next(iter(build_train_loader(cfg)))
    assert len(batch) == 2
    assert all(sample["image"].shape == (3, 10, 20) for sample in batch)
    assert {len(sample["instances"]) for sample in batch} <= {0, 1, 2}


def test_images_without_objects_can_be_left_out(use, coco_content):
    cfg, _ = use(coco_content)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert _seen(build_train_loader(cfg)) == {1, 2}


def test_nothing_left_to_train_on_is_an_error(use, coco_content):
    coco_content["annotations"] = []
    cfg, entry = use(coco_content)
    assert _seen(build_train_loader(cfg)) == {1, 2, 3}
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    with pytest.raises(DataError, match=r"DATASETS\.TRAIN, .*FILTER_EMPTY_ANNOTATIONS False"):
        build_train_loader(cfg)
    for path in Path(MetadataCatalog.get(entry).image_root).iterdir():
        path.unlink()
    cfg.DATASETS.SKIP_INVALID = True
    with pytest.raises(DataError, match="no images are left"):
        build_train_loader(cfg)
    with pytest.raises(DataError, match=r"DATASETS\.TEST.*no images are left"):
        build_test_loader(cfg, entry)


def test_several_training_sets_are_joined(cfg, write_coco, coco_content):
    entries = write_coco(coco_content, name="one"), write_coco(coco_content, name="two")
    register_datasets(entries)
    cfg.DATASETS.TRAIN = entries
    files = {x["file_name"] for batch in islice(build_train_loader(cfg), 30) for x in batch}
    assert len(files) == 6


def test_invalid_annotations_stop_training_or_are_left_out(use, coco_content):
    coco_content["annotations"][0]["bbox"] = [2, 1, 0, 4]
    cfg, entry = use(coco_content)
    for build in (build_train_loader, check_test_sets, lambda cfg: build_test_loader(cfg, entry)):
        with pytest.raises(DataError, match=r"annotation id 11 .*has no size"):
            build(cfg)
    cfg.DATASETS.SKIP_INVALID = True
    check_test_sets(cfg)
    batches = list(islice(build_train_loader(cfg), 10))
    counts = {x["image_id"]: len(x["instances"]) for batch in batches for x in batch}
    assert counts == {1: 1, 2: 1, 3: 0}


def test_masks_must_be_there_with_mask_on(use, coco_content):
    cfg, _ = use(coco_content)
    cfg.MODEL.MASK_ON = True
    with pytest.raises(DataError, match="no segmentation"):
        build_train_loader(cfg)


def test_a_broken_image_stops_training_when_it_is_read(use, coco_content, tmp_path):
    cfg, _ = use(coco_content)
    (tmp_path / "set/2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"Unusable image .*set/2\.png"):
        _seen(build_train_loader(cfg))


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_with_skip_invalid_others_take_a_broken_images_place(
    use, coco_content, tmp_path, caplog, sampler
):
    cfg, _ = use(coco_content, SKIP_INVALID=True)
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    (tmp_path / "set/2.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        assert _seen(build_train_loader(cfg)) == {1, 3}
    assert "Left out image" in caplog.text
    for name in ("1", "3"):
        (tmp_path / f"set/{name}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="in a row were unusable"):
        _seen(build_train_loader(cfg))


def test_evaluation_leaves_out_the_same_from_images_and_ground_truth(use, coco_content, tmp_path):
    coco_content["annotations"][0]["bbox"] = [2, 1, 0, 4]
    cfg, entry = use(coco_content, SKIP_INVALID=True)
    intact = (tmp_path / "set/2.png").read_bytes()
    (tmp_path / "set/2.png").write_bytes(intact[: len(intact) // 2])  # its header is whole
    metadata = MetadataCatalog.get(entry)
    full = metadata.json_file
    loader = build_test_loader(cfg, entry)
    assert [sample["image_id"] for batch in loader for sample in batch] == [1, 3]
    truth = json.loads(Path(metadata.json_file).read_text())
    assert [x["id"] for x in truth["images"]] == [1, 3]
    assert [x["id"] for x in truth["annotations"]] == [12]
    assert _ap_of_a_perfect_detector(metadata.json_file, loader) == pytest.approx(1)
    assert _ap_of_a_perfect_detector(full, loader) < 0.9
    # A second evaluation finds the same; one after the image is mended has it again.
    reduced = metadata.json_file
    build_test_loader(cfg, entry)
    assert metadata.json_file == reduced
    (tmp_path / "set/2.png").write_bytes(intact)
    build_test_loader(cfg, entry)
    assert len(json.loads(Path(metadata.json_file).read_text())["images"]) == 3
    assert json.loads(Path(full).read_text()) == coco_content


def test_sets_registered_in_python_are_evaluated_as_they_are_now(use, coco_content, request):
    cfg, entry = use(coco_content, SKIP_INVALID=True)
    name, records = f"in_python_{request.node.name}", DatasetCatalog.get(entry)
    records[0] = {**records[0], "file_name": "missing.png"}

    def register(records):
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(thing_classes=["cat", "dog"], evaluator_type="coco")

    def evaluated():
        build_test_loader(cfg, name)
        COCOEvaluator(name, output_dir=cfg.OUTPUT_DIR)
        content = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())
        return [x["id"] for x in content["images"]], content["annotations"]

    register(records)
    try:
        first = evaluated()
        assert first[0] == [2, 3]
        assert evaluated() == first
        # Another process, where the data has been corrected.
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        register([{**x, "annotations": []} for x in records])
        assert evaluated() == ([2, 3], [])
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_evaluation_without_anything_to_leave_out_keeps_the_users_file(use, coco_content):
    cfg, entry = use(coco_content, SKIP_INVALID=True)
    before = MetadataCatalog.get(entry).json_file
    assert len(build_test_loader(cfg, entry)) == 3
    assert MetadataCatalog.get(entry).json_file == before


def test_evaluation_notices_another_size_beforehand(use, coco_content, caplog):
    coco_content["images"][0]["width"] = 30
    cfg, entry = use(coco_content, SKIP_INVALID=True)
    with caplog.at_level(logging.WARNING):
        assert len(build_test_loader(cfg, entry)) == 2
    assert "1.png: its size is 20 x 10, annotated as 30 x 10" in caplog.text


def test_a_json_without_ground_truth_can_be_tested_on(use, coco_content):
    del coco_content["annotations"]
    cfg, entry = use(coco_content)
    assert len(build_test_loader(cfg, entry)) == 3


def test_semantic_segmentation_gets_its_labels(cfg, tmp_path, monkeypatch):
    root = str(tmp_path / "shapes")
    monkeypatch.setattr("sparsercnn.data.shapes_files.NUM_IMAGES", {"train": 4, "val": 2})
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in [x for x in catalog if x.startswith("shapes_")]:
            monkeypatch.delitem(catalog.data, name)
    register_shapes(root)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.DATASETS.TRAIN = ("shapes_sem_seg_train",)
    cfg.INPUT.MIN_SIZE_TRAIN = (128,)
    for sample in next(iter(build_train_loader(cfg))):
        assert sample["sem_seg"].shape == sample["image"].shape[1:]
        assert set(sample["sem_seg"].unique().tolist()) <= {0, 1, 2, 3}
    records = DatasetCatalog.get("shapes_val")
    assert [len(DatasetCatalog.get(f"shapes_{x}")) for x in ("train", "sem_seg_val")] == [4, 2]
    assert leave_out_invalid(records, "shapes_val")[1] == 0

"""Records that are read from kept json are those of detectron2, in the same order."""

import copy
import json
from itertools import islice
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from sparsercnn.data import DataError, build_test_loader, build_train_loader, register_datasets
from sparsercnn.data import build as build_module
from sparsercnn.data.coco_records import as_dataset, coco_records
from sparsercnn.data.validation import leave_out_invalid


@pytest.fixture
def rich_content(coco_content):
    """All forms of annotations; images and annotations in no order."""
    first, second, third = coco_content["annotations"]
    first["segmentation"] = [[2, 1, 7, 1, 7.25, 5], [2, 1, 7, 1]]  # the second has two points
    second["segmentation"] = {"counts": [50, 3, 147], "size": [10, 20]}
    third["keypoints"] = [3, 4, 2, 5.5, 6, 1]
    third["num_keypoints"] = 2
    third["iscrowd"], third["ignore"] = 0.0, 0.0
    everywhere = {"counts": "0X6", "size": [10, 20]}  # 0 and 200
    crowd = {**third, "id": 5, "iscrowd": 1, "segmentation": everywhere}
    coco_content["annotations"] = [third, crowd, second, first]
    coco_content["images"].reverse()
    coco_content["images"][0]["file_name"] = "dürer.png"
    return coco_content


def _types(value):
    if isinstance(value, dict):
        return {key: _types(x) for key, x in value.items()}
    return [_types(x) for x in value] if isinstance(value, list) else type(value)


def _same(records, expected):
    assert list(records) == list(expected)
    assert _types(list(records)) == _types(list(expected))


def test_an_entry_gives_what_the_catalog_gives(write_coco, rich_content):
    entry = write_coco(rich_content)
    register_datasets([entry])
    records = coco_records(entry)
    assert [len(x["annotations"]) for x in records] == [2, 2, 0]
    _same(records, DatasetCatalog.get(entry))
    _same(as_dataset(records.outlines()), DatasetCatalog.get(entry))
    flags = [[x["iscrowd"] for x in record["annotations"]] for record in records.outlines()]
    assert flags == [[0, 0], [0, 1], []]


def test_indented_files_and_other_alphabets(write_coco, rich_content, tmp_path):
    entry = write_coco(rich_content)
    register_datasets([entry])
    expected = DatasetCatalog.get(entry)
    text = json.dumps(rich_content, indent=1, ensure_ascii=False)
    (tmp_path / "set.json").write_text(f"\ufeff\n{text}\n", encoding="utf-8")
    _same(coco_records(entry), expected)


def test_fields_that_evaluation_needs_are_in_the_records_too(write_coco, rich_content):
    for annotation in rich_content["annotations"]:
        if annotation["id"] != 5:
            del annotation["iscrowd"]
        annotation.pop("area", None)
    entry = write_coco(rich_content)
    register_datasets([entry])
    assert MetadataCatalog.get(entry).json_file != entry[len("coco:") :].split("@")[0]
    _same(coco_records(entry), DatasetCatalog.get(entry))
    completed = json.loads(Path(MetadataCatalog.get(entry).json_file).read_text())["annotations"]
    assert [x["area"] for x in completed] == [200, 200, 48.0, 20]


def test_a_set_registered_with_detectron2(tmp_path, write_coco, rich_content, request):
    path, _, images = write_coco(rich_content)[len("coco:") :].partition("@")
    name = request.node.name
    register_coco_instances(name, {}, path, images)
    records = coco_records(name)
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog"]
    assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    _same(records, DatasetCatalog.get(name))


def test_other_sets_are_loaded_by_their_own_functions(write_coco, coco_content, request):
    entry = write_coco(coco_content)
    register_datasets([entry])
    name = request.node.name
    DatasetCatalog.register(name, lambda: DatasetCatalog.get(entry)[:1])
    assert coco_records(name) is None
    # Of COCO 2014, in which ids occur twice.
    coco_content["annotations"][0]["id"] = coco_content["annotations"][1]["id"]
    path, _, images = write_coco(coco_content, name="minival")[len("coco:") :].partition("@")
    register_coco_instances(f"{name}_2", {}, path, images)
    assert coco_records(f"{name}_2") is None


def test_a_record_can_be_changed_by_whoever_gets_it(write_coco, coco_content):
    coco_content["annotations"][0]["bbox"] = [2, 1, 0, 4]
    entry = write_coco(coco_content)
    register_datasets([entry])
    records = coco_records(entry)
    outlines, suspects = records.outlines(), {n: records[n] for n in records.suspects()}
    valid, _ = leave_out_invalid(outlines, entry, skip_invalid=True, suspects=suspects)
    for dataset in (records, as_dataset(valid)):
        before = copy.deepcopy(dataset[0])
        dataset[0]["annotations"][0]["bbox"][0] = 7
        assert dataset[0] == before


@pytest.mark.parametrize("mask_format", [None, "polygon", "bitmask"])
def test_suspects_are_all_that_have_problems(write_coco, coco_content, mask_format):
    boxes = [[3, 3, 0, 4], [20, 3, 4, 4], [3, 10, 4, 4], [-5, 3, 5, 4], [3, -5, 5, 5]]
    boxes += [[float("nan"), 3, 5, 5], [1, 3, float("inf"), 5], [1e308, 1, 1e308, 1]]
    boxes += [[-1, -1, 30, 20], [19, 9, 1, 1], [0, 0, 20, 10]]  # these are valid
    image, annotation = coco_content["images"][0], coco_content["annotations"][0]
    polygon, rle = [[1, 2, 3, 4, 5, 6]], {"counts": [50, 3, 147], "size": [10, 20]}
    changes = [{"bbox": box, "segmentation": polygon} for box in boxes]
    changes += [{"category_id": 5, "segmentation": polygon}, {}, {"segmentation": []}]
    changes += [{"segmentation": rle}, {"segmentation": rle, "iscrowd": 1}]
    changes += [{"segmentation": x} for x in ([[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[1e9] * 6])]
    changes += [{"segmentation": {**rle, "size": x}} for x in ([20, 10], [10, 19])]
    changes += [{"segmentation": {**rle, "counts": x}} for x in ([50, 3, 146], "0X", "0X5")]
    numbers = range(1, len(changes) + 1)
    coco_content["images"] = [{**image, "id": n, "file_name": f"{n}.png"} for n in numbers]
    coco_content["annotations"] = [
        {**annotation, "id": n, "image_id": n, **x} for n, x in zip(numbers, changes, strict=True)
    ]
    entry = write_coco(coco_content)
    register_datasets([entry])
    records = coco_records(entry)
    options = {"skip_invalid": True, "mask_format": mask_format}
    expected, num_left_out = leave_out_invalid(DatasetCatalog.get(entry), entry, **options)
    suspects = {n: records[n] for n in records.suspects(mask_format)}
    valid = leave_out_invalid(records.outlines(), entry, suspects=suspects, **options)
    assert valid[1] == num_left_out == len(suspects)
    # NaN does not equal itself, but is not in a valid annotation.
    _same(as_dataset(valid[0]), expected)


def _batches(cfg, mapped, monkeypatch, num_skipped=0, number=12):
    """Batches of a loader, of kept json or of lists as in detectron2."""
    with monkeypatch.context() as patch:
        if not mapped:
            patch.setattr(build_module, "coco_records", lambda name: None)
        loader = build_train_loader(cfg)
    if num_skipped:
        loader.start_at(num_skipped)
    seen = []
    for batch in islice(loader, number):
        seen.append([(x["file_name"], x["image"].tolist(), len(x["instances"])) for x in batch])
    return seen


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
@pytest.mark.parametrize("grouping", [False, True])
def test_batches_and_their_order_are_the_same(
    cfg, write_coco, rich_content, monkeypatch, tmp_path, sampler, grouping
):
    rich_content["annotations"][0]["bbox"] = [1, 2, 3, 0]
    (tall,) = (x for x in rich_content["images"] if x["id"] == 2)
    tall.update(width=10, height=20)
    entries = [write_coco(rich_content, name=name) for name in ("one", "two")]
    for name in ("one", "two"):
        Image.new("RGB", (10, 20)).save(tmp_path / name / tall["file_name"])
    register_datasets(entries)
    cfg.DATASETS.TRAIN, cfg.DATASETS.SKIP_INVALID, cfg.SEED = tuple(entries), True, 3
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    for num_skipped in (0, 3):
        mapped, listed = (_batches(cfg, x, monkeypatch, num_skipped) for x in (True, False))
        assert mapped == listed


def test_evaluation_and_invalid_data_are_as_before(cfg, write_coco, coco_content, monkeypatch):
    coco_content["annotations"][0]["bbox"] = [2, 1, 0, 4]
    entry = write_coco(coco_content)
    register_datasets([entry])
    cfg.DATASETS.TEST = (entry,)
    messages, files = [], []
    for mapped in (True, False):
        if not mapped:
            monkeypatch.setattr(build_module, "coco_records", lambda name: None)
        cfg.DATASETS.SKIP_INVALID = False
        with pytest.raises(DataError) as error:
            build_test_loader(cfg, entry)
        messages.append(str(error.value))
        cfg.DATASETS.SKIP_INVALID = True
        files.append([x["file_name"] for batch in build_test_loader(cfg, entry) for x in batch])
    assert messages[0] == messages[1]
    assert files[0] == files[1] and len(files[0]) == 3

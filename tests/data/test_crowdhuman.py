import json
import runpy
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from sparsercnn.data import (
    DataError,
    SparseRCNNDatasetMapper,
    leave_out_invalid,
    register_crowdhuman,
)
from sparsercnn.data.crowdhuman import convert_crowdhuman, missing_files

PEOPLE = [
    {"tag": "person", "fbox": [-5, 2, 10, 20], "extra": {"box_id": 0, "occ": 0}},
    {"tag": "person", "fbox": [3, 2, 6, 5], "extra": {"ignore": 1}},
    {"tag": "mask", "fbox": [10, 0, 10, 10], "extra": {"ignore": 1}},
    {"tag": "person", "fbox": [4, 4, 0, 3], "extra": {}},
    {"tag": "person", "fbox": [25, 4, 5, 3]},
]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "crowdhuman"
    for split in ("train", "val"):
        folder = root / f"CrowdHuman_{split}"
        folder.mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(folder / "273271,1.jpg")
        line = json.dumps({"ID": "273271,1", "gtboxes": PEOPLE})
        (root / f"annotation_{split}.odgt").write_text(line + "\n")
    return root


def test_conversion_by_hand(root):
    counts = convert_crowdhuman(str(root), "val")
    assert counts == {"images": 1, "persons": 1, "ignored": 2, "left out": 2}
    content = json.loads((root / "annotations/val.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "person"}]
    assert content["images"] == [{"id": 1, "file_name": "273271,1.jpg", "width": 20, "height": 10}]
    assert [(x["id"], x["bbox"], x["iscrowd"], x["area"]) for x in content["annotations"]] == [
        (1, [-5, 2, 10, 20], 0, 200),
        (2, [3, 2, 6, 5], 1, 30),
        (3, [10, 0, 10, 10], 1, 100),
    ]


def test_sizes_are_those_of_upright_images(root):
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.new("RGB", (20, 10)).save(root / "CrowdHuman_val/273271,1.jpg", exif=sideways)
    convert_crowdhuman(str(root), "val")
    (image,) = json.loads((root / "annotations/val.json").read_text())["images"]
    assert (image["width"], image["height"]) == (10, 20)


def test_a_line_that_cannot_be_read_is_named(root):
    path = root / "annotation_val.odgt"
    path.write_text(path.read_text() + '{"ID": "x"}\n')
    with pytest.raises(DataError, match=r"annotation_val\.odgt, line 2.*gtboxes"):
        convert_crowdhuman(str(root), "val")


def _register_anew(root, monkeypatch):
    """Until the end of the test."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in ("CrowdHuman_train", "CrowdHuman_val"):
            monkeypatch.delitem(catalog.data, name)
    register_crowdhuman(str(root))


def test_the_registered_sets_load_what_was_converted(root, monkeypatch):
    for name in ("CrowdHuman_train", "CrowdHuman_val"):
        assert MetadataCatalog.get(name).thing_classes == ["person"]
        assert MetadataCatalog.get(name).evaluator_type == "crowdhuman"
    _register_anew(root, monkeypatch)
    with pytest.raises(FileNotFoundError, match=r"val\.json is missing; .*prepare_crowdhuman"):
        DatasetCatalog.get("CrowdHuman_val")
    convert_crowdhuman(str(root), "val")
    records, num_left_out = leave_out_invalid(
        DatasetCatalog.get("CrowdHuman_val"), "CrowdHuman_val"
    )
    assert num_left_out == 0
    assert records[0]["annotations"][0]["bbox"] == [-5, 2, 10, 20]
    assert [x["iscrowd"] for x in records[0]["annotations"]] == [0, 1, 1]


def test_what_is_to_be_ignored_is_not_trained_on(root, monkeypatch, tiny_cfg):
    convert_crowdhuman(str(root), "train")
    _register_anew(root, monkeypatch)
    tiny_cfg.INPUT.MIN_SIZE_TRAIN, tiny_cfg.INPUT.RANDOM_FLIP = (10,), "none"
    sample = SparseRCNNDatasetMapper(tiny_cfg, True)(DatasetCatalog.get("CrowdHuman_train")[0])
    assert sample["instances"].gt_boxes.tensor.tolist() == [[0, 2, 5, 10]]  # clipped to the image


def test_the_script_names_what_is_missing(root, repository, monkeypatch, capsys):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["prepare_crowdhuman.py", str(root), *args])
        runpy.run_path(str(repository / "datasets/prepare_crowdhuman.py"), run_name="__main__")

    (root / "annotation_val.odgt").unlink()
    assert missing_files(str(root)) == [str(root / "annotation_val.odgt")]
    with pytest.raises(SystemExit, match="2"):
        run()
    missing = root / "annotation_val.odgt"
    assert capsys.readouterr().err == f"error: Missing, see datasets/README.md: {missing}.\n"
    with pytest.raises(SystemExit, match="0"):
        run("--splits", "train")
    assert "train.json: 1 images, 1 persons, 2 ignored, 2 left out" in capsys.readouterr().out

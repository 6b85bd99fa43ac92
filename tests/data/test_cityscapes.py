"""Label maps of Cityscapes on a tree of its shape, made here."""

import importlib.util
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from sparsercnn.data import DataError
from sparsercnn.data.cityscapes import make_train_ids, missing_files

ROAD, CAR, LICENSE_PLATE, STATIC = 7, 26, -1, 4


@pytest.fixture
def root(tmp_path):
    """Two images of 16 x 8: road below, a car on it that has a license plate, the rest static."""
    for city, number in (("aachen", 0), ("ulm", 1)):
        stem = f"{city}_{number:06d}_000019"
        image = tmp_path / "leftImg8bit/train" / city / f"{stem}_leftImg8bit.png"
        labels = tmp_path / "gtFine/train" / city
        image.parent.mkdir(parents=True)
        labels.mkdir(parents=True)
        Image.new("RGB", (16, 8)).save(image)
        ids = np.full((8, 16), STATIC, dtype=np.uint8)
        ids[4:] = ROAD
        ids[2:7, 3 : 8 + number] = CAR
        Image.fromarray(ids).save(labels / f"{stem}_gtFine_labelIds.png")
        Image.fromarray(ids).save(labels / f"{stem}_gtFine_instanceIds.png")
        objects = [
            {"label": "static", "polygon": box(0, 0, 15, 7)},
            {"label": "road", "polygon": box(0, 4, 15, 7)},
            {"label": "cargroup", "polygon": box(3, 2, 7 + number, 6)},
            {"label": "license plate", "polygon": box(4, 5, 5, 6)},
            {"label": "sky", "polygon": box(0, 0, 15, 7), "deleted": 1},
        ]
        content = {"imgHeight": 8, "imgWidth": 16, "objects": objects}
        (labels / f"{stem}_gtFine_polygons.json").write_text(json.dumps(content))
    return tmp_path


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def train_ids(root, city="aachen", number=0):
    path = f"gtFine/train/{city}/{city}_{number:06d}_000019_gtFine_labelTrainIds.png"
    return np.array(Image.open(root / path))


@pytest.mark.parametrize("from_polygons", [False, True])
def test_label_maps_hold_the_train_ids(root, from_polygons):
    assert make_train_ids(root, "train", from_polygons) == {"written": 2}
    for city, number in (("aachen", 0), ("ulm", 1)):
        expected = np.full((8, 16), 255)
        expected[4:] = 0
        expected[2:7, 3 : 8 + number] = 13
        np.testing.assert_array_equal(train_ids(root, city, number), expected)
    assert not list(root.rglob("*.tmp"))


def test_every_official_id_has_its_train_id(root):
    path = root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    Image.fromarray(np.arange(34, dtype=np.uint8)[None]).save(path)
    make_train_ids(root, "train")
    expected = dict(
        zip(
            [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33],
            range(19),
            strict=True,
        )
    )
    assert train_ids(root)[0].tolist() == [expected.get(i, 255) for i in range(34)]


def test_what_is_there_is_kept(root):
    make_train_ids(root, "train")
    path = root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelTrainIds.png"
    path.unlink()
    assert make_train_ids(root, "train") == {"written": 1, "kept": 1}
    assert make_train_ids(root, "train", overwrite=True) == {"written": 2}


def test_a_complete_tree_lacks_nothing(root):
    assert missing_files(root, ["train"]) == []


def test_what_is_missing_is_listed(root):
    (root / "gtFine/train/ulm/ulm_000001_000019_gtFine_polygons.json").unlink()
    (line,) = missing_files(root, ["train"])
    assert line.startswith("polygons.json of 1 of 2 images:") and "ulm_000001" in line
    lines = missing_files(root, ["val"])
    assert len(lines) == 2
    assert "leftImg8bit/val, from leftImg8bit_trainvaltest.zip" in lines[0]
    assert "gtFine/val, from gtFine_trainvaltest.zip" in lines[1]
    for image in (root / "leftImg8bit").rglob("*.png"):
        image.unlink()
    assert "CITY/*_leftImg8bit.png" in missing_files(root, ["train"])[0]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not an annotation of Cityscapes"),
        ("[]", "is not an annotation of Cityscapes"),
        ('{"imgHeight": 8, "imgWidth": 16}', "objects"),
        (
            '{"imgHeight": 8, "imgWidth": 16, "objects": [{"label": "cow", "polygon": []}]}',
            "'cow'",
        ),
    ],
)
def test_bad_polygons_name_the_file(root, content, message):
    path = root / "gtFine/train/ulm/ulm_000001_000019_gtFine_polygons.json"
    path.write_text(content)
    with pytest.raises(DataError, match=f"ulm_000001_000019_gtFine_polygons.json.*{message}"):
        make_train_ids(root, "train", from_polygons=True)


def test_unknown_ids_name_the_file(root):
    path = root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png"
    Image.fromarray(np.full((8, 16), 40, dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match=r"000019_gtFine_labelIds.png: 40 is not a label id"):
        make_train_ids(root, "train")


@pytest.fixture
def script(repository):
    path = repository / "datasets/prepare_cityscapes.py"
    spec = importlib.util.spec_from_file_location("prepare_cityscapes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_what_detectron2_reads(root, script, monkeypatch, capsys):
    from detectron2.data.datasets.cityscapes import load_cityscapes_semantic

    monkeypatch.setattr(sys, "argv", ["prepare", str(root), "--splits", "train"])
    script.main()
    out = capsys.readouterr().out
    assert "train: 2 of the 2975 images" in out and "2 label maps written, 0 kept" in out
    records = load_cityscapes_semantic(f"{root}/leftImg8bit/train", f"{root}/gtFine/train")
    assert len(records) == 2
    for record in records:
        assert np.array(Image.open(record["sem_seg_file_name"])).shape == (8, 16)


def test_the_script_says_what_is_missing(root, script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare", str(root)])
    assert script.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"^error: Missing.* folder .*leftImg8bit/val.* folder", line)

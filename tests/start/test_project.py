"""From a folder to a config that trains."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image

from sparsercnn.cli import start, train
from sparsercnn.config_files import find_config
from sparsercnn.engine.schedule import schedule_in_iterations
from sparsercnn.engine.setup import load_config
from sparsercnn.errors import ConfigError, DataError
from sparsercnn.start.project import Options, make_project
from sparsercnn.start.splits import choose_splits

BCCD = Path(__file__).resolve().parents[2].parent / "shared/data/BCCD"


def boxes_of(entry):
    records = DatasetCatalog.get(entry)
    return {
        Path(record["file_name"]).name: sorted(
            (x["category_id"], tuple(x["bbox"])) for x in record["annotations"]
        )
        for record in records
    }


def test_every_format_gives_the_same_run(data, tmp_path):
    _, root = data
    project = make_project(Options(str(root), str(tmp_path / "run")))
    cfg = load_config(project.config_file)
    assert boxes_of(cfg.DATASETS.TRAIN[0]) == {
        "a.png": [(0, (20, 5, 16, 10)), (1, (2, 1, 10, 8))],
        "b.png": [(0, (0, 0, 40, 20))],
    }
    assert boxes_of(cfg.DATASETS.TEST[0]) == {"c.png": [(1, (10, 10, 10, 10))], "d.png": []}
    assert cfg.MODEL.SparseRCNN.NUM_CLASSES == 2
    assert project.figures.class_names == ["cat", "dog"]
    assert project.figures.class_counts == [2, 1]
    # Nothing is left beside the data.
    names = {x.name for x in (tmp_path / "run").iterdir()}
    assert names <= {"config.yaml", "data"}


def write_unsplit(root, num=20):
    """One COCO file of `num` images in pairs that are nearly the same."""
    (root / "pictures").mkdir(parents=True)
    images, annotations = [], []
    for i in range(num):
        rng = np.random.default_rng(i // 2)
        pixels = rng.integers(0, 200, (6, 8, 3)).astype(np.uint8)
        picture = np.asarray(Image.fromarray(pixels).resize((80, 60))) + np.uint8(i % 2)
        Image.fromarray(picture).save(root / f"pictures/{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 80, "height": 60})
        box = {"id": i + 1, "image_id": i, "category_id": 1 + (i > 13), "bbox": [5, 5, 30, 30]}
        annotations.append(box)
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "all.json").write_text(json.dumps(content))
    return root


def test_a_split_is_made_and_told(tmp_path):
    root = write_unsplit(tmp_path / "data")
    before = sorted(root.rglob("*"))

    def parts(name, **options):
        project = make_project(Options(str(root), str(tmp_path / name), **options))
        cfg = load_config(project.config_file)
        found = [boxes_of(entries[0]) for entries in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)]
        return project, *found

    project, train_boxes, val_boxes = parts("one")
    assert len(train_boxes) == 16 and len(val_boxes) == 4
    assert {x[0][0] for x in val_boxes.values()} == {0, 1}  # both classes
    pairs = {int(name[:-4]) // 2 for name in train_boxes}
    assert not pairs & {int(name[:-4]) // 2 for name in val_boxes}
    assert any("divided into 16 and 4, with seed 0" in note for note in project.notes)
    assert any("20 images have others that look nearly the same" in x for x in project.notes)
    assert parts("again")[2] == val_boxes
    assert any(parts(f"seed{n}", seed=n)[2] != val_boxes for n in (1, 2))
    assert len(parts("half", val_fraction=0.5)[2]) == 10
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("first", ["data/run1", "data"])
def test_an_earlier_run_in_the_folder_of_the_data_is_no_data(tmp_path, first):
    root = write_unsplit(tmp_path / "data")
    project = make_project(Options(str(root), str(tmp_path / first)))
    assert (project.figures.num_images, project.figures.num_val_images) == (16, 4)
    (tmp_path / first / "run").mkdir()
    predictions = tmp_path / first / "run/predictions.json"
    predictions.write_text((root / "all.json").read_text())
    project = make_project(Options(str(root), str(root / "run2"), val_fraction=0.5))
    assert (project.figures.num_images, project.figures.num_val_images) == (10, 10)
    (note,) = (x for x in project.notes if "an earlier `start`" in x)
    assert note.endswith(f": {tmp_path / first}.")


def test_other_configs_in_the_folder_of_the_data_do_not_matter(write_data, tmp_path):
    root = write_data("coco")
    (root / "train/config.yaml").write_text("# Made by hand")
    project = make_project(Options(str(root), str(tmp_path / "run")))
    assert project.figures.num_images == 2
    assert not any("earlier" in note for note in project.notes)


def test_invalid_data_is_left_out_and_said(write_data, tmp_path, caplog):
    root = write_data("voc")
    path = root / "Annotations/a.xml"
    path.write_text(path.read_text().replace("<xmin>3<", "<xmin>12<"))  # no width
    with caplog.at_level(logging.WARNING, "sparsercnn"):
        project = make_project(Options(str(root), str(tmp_path / "run")))
    assert "a.xml: annotation number 1" in caplog.text
    assert yaml.safe_load(Path(project.config_file).read_text())["DATASETS"]["SKIP_INVALID"]
    assert project.figures.class_counts == [2, 0]
    assert any("The class dog has no object to train on" in note for note in project.notes)
    for name in ("a.png", "b.png"):
        (root / "JPEGImages" / name).write_bytes(b"broken")
    with pytest.raises(DataError, match="2 of 5 images and objects are invalid"):
        make_project(Options(str(root), str(tmp_path / "other")))
    assert not (tmp_path / "other/config.yaml").exists()


def test_the_same_picture_in_both_splits_is_told(write_data, tmp_path):
    root = write_data("voc")
    (root / "JPEGImages/c.png").write_bytes((root / "JPEGImages/b.png").read_bytes())
    project = make_project(Options(str(root), str(tmp_path / "run")))
    (note,) = (x for x in project.notes if "nearly the same" in x)
    assert note.startswith("1 of the 2 images to evaluate on") and "c.png and " in note


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (["train", "val", "test"], (), ("train", "val", "test")),
        (["test", "train", "trainval", "val"], (), ("train", "val", "test")),
        (["trainval", "test"], (), ("trainval", "test", None)),
        (["train", "test"], (), ("train", "test", None)),
        (["train", "valid"], (), ("train", "valid", None)),
        (["instances_train2017", "instances_val2017"], (),
         ("instances_train2017", "instances_val2017", None)),
        (["photos"], (), ("photos", None, None)),
        (["aeroplane_train", "train", "val"], (), ("train", "val", None)),
        (["train", "val", "trainval", "test"], ("trainval", "test"), ("trainval", "test", None)),
        (["train_val", "test"], (), ("train_val", "test", None)),
        (["train-val2012", "test"], (), ("train-val2012", "test", None)),
        (["train_validation", "test"], (), ("train_validation", "test", None)),
        (["train", "val", "train_val"], (), ("train", "val", None)),
        (["a", "b"], ("a", "b"), ("a", "b", None)),
        (["a", "b"], ("a", None), ("a", None, None)),
    ],
)  # fmt: skip
def test_splits_by_their_names(names, given, expected):
    chosen = choose_splits(names, *given)
    assert (chosen.train, chosen.val, chosen.test) == expected


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (["a", "b"], (), "not clear: a, b. Give --train"),
        (["train_test", "other"], (), "not clear: train_test, other"),
        (["train_val", "other"], (), "not clear: train_val, other"),
        (["a"], ("b", None), "no split 'b'; there are: a"),
        (["a"], ("a", "a"), "must differ"),
        (["a", "b"], (None, "b"), "must differ"),
    ],
)
def test_unclear_splits_are_asked_for(names, given, message):
    with pytest.raises(DataError, match=message):
        choose_splits(names, *given)


def test_a_config_is_never_overwritten(write_data, tmp_path):
    options = Options(str(write_data("csv")), str(tmp_path / "run"))
    make_project(options)
    with pytest.raises(ConfigError, match=r"config\.yaml exists"):
        make_project(options)


def test_the_command_and_the_config_it_writes(tmp_path, capsys, monkeypatch):
    """Small data, end to end: the folder of the run is inside the data, and is not read as such."""
    root = write_unsplit(tmp_path / "data", 8)
    monkeypatch.chdir(root)
    assert start.main([".", "--output", "my run", "--device", "cpu", "--explain"]) == 0
    text = capsys.readouterr().out
    assert "COCO json, 6 images to train on, 2 to evaluate on" in text and "95th percentile" in text
    (command,) = (x.strip() for x in text.splitlines() if " train --config-file" in x)
    assert command.endswith(f"--config-file '{root}/my run/config.yaml'")
    small = [
        "MODEL.SparseRCNN.HIDDEN_DIM", "32", "MODEL.SparseRCNN.NUM_HEADS", "2",
        "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.SparseRCNN.DIM_FEEDFORWARD", "64",
        "DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MIN_SIZE_TEST", "48",
    ]  # fmt: skip
    two = ["SOLVER.EPOCHS", "1", "SOLVER.IMS_PER_BATCH", "3"]  # of 6 images: 2 iterations
    arguments = ["--config-file", "my run/config.yaml", *small, *two]
    assert train.main(arguments) == 0
    assert {"model_final.pth", "model_best.pth"} <= set(os.listdir("my run/run"))
    rows = [json.loads(x) for x in Path("my run/run/metrics.json").read_text().splitlines()]
    assert [x["iteration"] for x in rows if "bbox/AP" in x] == [2]

    # And from that model, whose shape is another than the recipe's.
    assert start.main([".", "--output", "second", "--weights", "my run/run"]) == 0
    cfg = load_config("second/config.yaml")
    assert Path(cfg.MODEL.WEIGHTS) == root / "my run/run/model_best.pth"
    assert cfg.MODEL.SparseRCNN.HIDDEN_DIM == 32 and cfg.MODEL.FPN.OUT_CHANNELS == 32
    assert cfg.MODEL.SparseRCNN.NUM_CLASSES == 2
    assert "ROI_BOX_CASCADE_HEAD" not in Path("second/config.yaml").read_text()  # it is the same


def test_a_published_config_keeps_its_weights_and_can_train(tmp_path):
    root = write_unsplit(tmp_path / "data")
    published = "sparse_rcnn/sparsercnn.res50.100pro.3x"
    project = make_project(Options(str(root), str(tmp_path / "run"), config_file=published))
    cfg = load_config(project.config_file)
    # Its first stages are frozen.
    assert cfg.MODEL.WEIGHTS.endswith("/R-50.pkl") and cfg.MODEL.BACKBONE.FREEZE_AT == 2
    assert "Those of _BASE_" in Path(project.config_file).read_text()
    solver = schedule_in_iterations(cfg, 16).SOLVER
    assert solver.MAX_ITER == 375 and solver.WARMUP_ITERS == 26


def test_a_pretrained_backbone_is_not_called_scratch(tmp_path):
    root = write_unsplit(tmp_path / "data")
    options = Options(str(root), str(tmp_path / "run"))
    options.config_file = "backbones/sparsercnn.convnext_tiny.300pro.3x"
    text = Path(make_project(options).config_file).read_text()
    assert "learns from scratch" not in text and "starts from its PRETRAINED, timm" in text


def test_a_schedule_that_training_refuses_is_refused(write_data, tmp_path):
    base = tmp_path / "base.yaml"
    long = "SOLVER:\n  WARMUP_FRACTION: 0.9999\n"
    base.write_text(f"_BASE_: {find_config('recipes/small_data')}\n{long}")
    options = Options(str(write_data("csv")), str(tmp_path / "run"), config_file=str(base))
    with pytest.raises(ConfigError, match="as long as the schedule"):
        make_project(options)


def test_after_an_error_nothing_is_left_to_be_read_as_data(write_data, tmp_path):
    root = write_data("csv")
    table = root / "train.csv"
    intact = table.read_text()
    first, *rows = intact.splitlines()
    bad = [row.rpartition(",")[0] + ",-5" for row in rows]
    table.write_text("\n".join([first, *bad]))
    with pytest.raises(DataError, match="are invalid"):
        make_project(Options(str(root), str(root / "run1")))
    table.write_text(intact)
    project = make_project(Options(str(root), str(root / "run2")))
    assert project.figures.num_objects == 3


def test_errors_are_a_line(tmp_path, capsys):
    assert start.main([str(tmp_path / "no"), "--output", str(tmp_path / "run")]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.skipif(not BCCD.exists(), reason="needs BCCD")
def test_bccd(tmp_path):
    project = make_project(Options(str(BCCD), str(tmp_path / "run")))
    figures = project.figures
    assert (figures.num_images, figures.num_val_images) == (205, 87)
    assert figures.class_names == ["Platelets", "RBC", "WBC"]
    cfg = load_config(project.config_file)
    assert cfg.INPUT.MIN_SIZE_TEST == 240 and cfg.INPUT.MAX_SIZE_TEST == 320
    assert cfg.MODEL.SparseRCNN.NUM_PROPOSALS == 50
    assert "BloodImage_00037.jpg" in str(project.notes)

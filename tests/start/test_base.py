"""What a run starts from: configs, and the models of weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools import mask as mask_util

from sparsercnn.engine.setup import get_config, load_config
from sparsercnn.errors import ConfigError, DataError
from sparsercnn.start import base
from sparsercnn.start.project import Options, make_project

URL = "https://example.org/model.pth"


def use_as_model_of_weights(monkeypatch, name, *opts):
    """Let the checkpoint URL have this config."""
    trained = get_config(name, ["MODEL.WEIGHTS", URL, *opts])
    monkeypatch.setattr(base, "load_model_config", lambda *_, **__: trained)


def add_masks(root, split, kind="polygon"):
    """Give each object of COCO json its box as a mask."""
    path = root / f"annotations/instances_{split}.json"
    content = json.loads(path.read_text())
    for x in content["annotations"]:
        x0, y0, w, h = x["bbox"]
        x["segmentation"] = [[x0, y0, x0 + w, y0, x0 + w, y0 + h, x0, y0 + h]]
        if kind == "rle":
            pixels = np.zeros((20, 40), np.uint8, order="F")
            pixels[y0 : y0 + h, x0 : x0 + w] = 1
            rle = mask_util.encode(pixels)
            x["segmentation"] = {**rle, "counts": rle["counts"].decode()}
    path.write_text(json.dumps(content))


def test_weights_for_a_config_become_a_file(write_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, published = str(write_data("csv")), "sparse_rcnn/sparsercnn.res50.100pro.3x"
    Path("run").mkdir()
    Path("run/model_final.pth").write_bytes(b"not read here")

    def weights_for(output, weights):
        options = Options(data, output, weights=weights, config_file=published)
        return load_config(make_project(options).config_file).MODEL.WEIGHTS

    file = str(tmp_path / "run/model_final.pth")
    assert weights_for("of_folder", "run") == weights_for("of_file", "run/model_final.pth") == file
    assert weights_for("of_url", "detectron2://a/b.pkl") == "detectron2://a/b.pkl"
    with pytest.raises(ConfigError, match="no_such_run do not exist"):
        weights_for("missing", "no_such_run")


def test_a_url_as_weights_stays_one(write_data, tmp_path, monkeypatch):
    use_as_model_of_weights(monkeypatch, "recipes/small_data")
    project = make_project(Options(str(write_data("csv")), str(tmp_path / "run"), weights=URL))
    assert load_config(project.config_file).MODEL.WEIGHTS == URL


@pytest.mark.parametrize(
    ("name", "model"),
    [("cascade_mask_rcnn", "GeneralizedRCNN"), ("danet", "SemanticSegmentor")],
)
@pytest.mark.parametrize("source", ["config_file", "weights"])
def test_other_models_are_refused_by_name(write_data, tmp_path, monkeypatch, name, model, source):
    given = f"quickstart/{name}"
    if source == "weights":
        use_as_model_of_weights(monkeypatch, given)
        given = URL
    options = Options(str(write_data("csv")), str(tmp_path / "run"), **{source: given})
    with pytest.raises(ConfigError, match=f"{given}.* is a {model}; start makes .* SparseRCNN"):
        make_project(options)


@pytest.mark.parametrize("data_format", ["csv", "labelme", "yolo", "coco", "voc"])
def test_a_config_with_masks_is_refused_for_data_without(write_data, tmp_path, data_format):
    options = Options(str(write_data(data_format)), str(tmp_path / "run"))
    options.config_file = "quickstart/queryinst"
    message = r"train.*: 3 of 3 objects have no mask, .*Choose one without masks by --config-file"
    with pytest.raises(DataError, match=message):
        make_project(options)
    assert not (tmp_path / "run/config.yaml").exists()


@pytest.mark.parametrize(
    ("train_masks", "val_masks", "message"),
    [
        ("polygon", None, r"val\.json@.*: 1 of 1 objects have no mask"),
        ("polygon", "rle", None),  # evaluation reads both
    ],
)
def test_masks_must_be_as_the_config_needs_them(
    write_data, tmp_path, train_masks, val_masks, message
):
    root = write_data("coco")
    for split, kind in (("train", train_masks), ("val", val_masks)):
        if kind:
            add_masks(root, split, kind)
    options = Options(str(root), str(tmp_path / "run"), config_file="quickstart/queryinst")
    if message:
        with pytest.raises(DataError, match=message):
            make_project(options)
    else:
        assert load_config(make_project(options).config_file).MODEL.MASK_ON


def test_masks_as_run_lengths_change_the_format(write_data, tmp_path):
    root = write_data("coco")
    add_masks(root, "train", "rle")
    add_masks(root, "val")
    options = Options(str(root), str(tmp_path / "run"), config_file="quickstart/queryinst")
    project = make_project(options)
    cfg = load_config(project.config_file)
    assert cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "bitmask"
    assert project.figures.num_objects == 3 and not cfg.DATASETS.SKIP_INVALID


def test_the_masks_of_weights_are_kept_where_the_data_has_some(write_data, tmp_path, monkeypatch):
    use_as_model_of_weights(monkeypatch, "quickstart/queryinst", "INPUT.MASK_FORMAT", "bitmask")
    root = write_data("coco")
    for split in ("train", "val"):
        add_masks(root, split, "rle")
    project = make_project(Options(str(root), str(tmp_path / "run"), weights=URL))
    cfg = load_config(project.config_file)
    assert cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "bitmask"
    assert cfg.MODEL.SparseRCNN.MASK.SHARED and cfg.MODEL.SparseRCNN.MASK.CONV_DIM == 32


def test_the_masks_of_weights_are_left_out_for_data_without(write_data, tmp_path, monkeypatch):
    use_as_model_of_weights(monkeypatch, "quickstart/queryinst")
    for name in ("csv", "coco"):
        root = write_data(name, name)
        if name == "coco":
            add_masks(root, "train")  # and none to evaluate on
        options = Options(str(root), str(tmp_path / f"run {name}"), weights=URL)
        text = Path(make_project(options).config_file).read_text()
        assert "the data has no masks" in text.replace("\n  # ", " ")
        content = yaml.safe_load(text)["MODEL"]
        assert content["MASK_ON"] is False and "MASK" not in content["SparseRCNN"]

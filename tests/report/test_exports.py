"""What is exported is read back by others' readers as it was."""

import csv
import json
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from sparsercnn.cli.report import get_parser
from sparsercnn.data.yolo import convert_yolo
from sparsercnn.errors import ConfigError, DataError, MissingFileError
from sparsercnn.report.exports import FORMATS, export
from sparsercnn.report.records import read_detections
from sparsercnn.start.formats import read_source

NAMES = ("red cell", "Thrombo\u00adzyt & <co>")


@pytest.fixture
def data(truth, tmp_path):
    data = truth([], num_images=3, classes=NAMES, size=(80, 50))
    data.files = [str(tmp_path / "pictures" / x) for x in ("a.png", "sub/a.png", "none.png")]
    return data


@pytest.fixture
def detections(found):
    return found(
        [
            (0, 1, [10, 5, 30, 25.5], 0.875),
            (0, 0, [-5, 10, 90, 20], 0.5),  # reaches out on both sides
            (1, 0, [0, 0, 80, 50], 0.25),
            (1, 1, [85, 5, 95, 10], 0.2),  # outside of the image
        ]
    )


# Clipped to the image.
EXPECTED = {
    "a.png": [(0, [0, 10, 80, 20]), (1, [10, 5, 30, 25.5])],
    "sub/a.png": [(0, [0, 0, 80, 50])],
    "none.png": [],
}


def write_images(data, folder):
    for name in EXPECTED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 50)).save(folder / name)


def simplify(content):
    names = [x["name"] for x in sorted(content["categories"], key=lambda x: x["id"])]
    ids = {x["id"]: x["file_name"] for x in content["images"]}
    found = {name: [] for name in EXPECTED}
    for x in content["annotations"]:
        name = next(
            n for n in sorted(EXPECTED, key=len, reverse=True) if ids[x["image_id"]].endswith(n)
        )
        x0, y0, w, h = x["bbox"]
        found[name].append((x["category_id"] - 1, [x0, y0, x0 + w, y0 + h]))
    return names, {name: sorted(boxes) for name, boxes in found.items()}


def assert_same(found, abs):
    assert set(found) == set(EXPECTED)
    for name, expected in EXPECTED.items():
        assert [k for k, _ in found[name]] == [k for k, _ in expected]
        boxes = np.array([box for _, box in found[name]])
        assert boxes == pytest.approx(np.array([box for _, box in expected]), abs=abs)


def test_coco(data, detections, tmp_path):
    (path,) = export(["coco"], data, detections, tmp_path / "out")
    again = read_detections(path, data)
    for name in ("image", "classes", "boxes", "scores"):
        assert (getattr(again, name) == getattr(detections, name)).all()
    assert json.loads(path.read_text())[0]["category_id"] == 20


def test_yolo(data, detections, tmp_path):
    (root,) = export(["yolo"], data, detections, tmp_path / "out")
    write_images(data, root / "images")
    names, found = simplify(convert_yolo(str(root / "data.yaml"), "train"))
    assert names == list(NAMES)
    assert_same(found, abs=1e-3)


def test_yolo_says_where_images_are_for_training_and_for_validation(data, detections, tmp_path):
    """Without `val`, Ultralytics refuses the file; `path` would be relative to its own folders."""
    (root,) = export(["yolo"], data, detections, tmp_path / "out")
    content = yaml.safe_load((root / "data.yaml").read_text(encoding="utf-8"))
    assert content == {"train": "images", "val": "images", "names": dict(enumerate(NAMES))}


def test_yolo_cannot_tell_images_that_differ_by_their_ending(data, detections, tmp_path):
    data.files[2] = data.files[0].replace(".png", ".jpg")
    with pytest.raises(ConfigError, match=r"two images .* the labels a\.txt"):
        export(["yolo"], data, detections, tmp_path / "out")


def test_csv(data, detections, tmp_path):
    (path,) = export(["csv"], data, detections, tmp_path / "out")
    write_images(data, tmp_path / "out")
    (split,) = read_source(str(path), "csv").splits.values()
    names, found = simplify(split.load())
    assert names == sorted(NAMES)  # as its reader orders them
    order = [names.index(x) for x in NAMES]
    found = {k: sorted((order.index(c), box) for c, box in x) for k, x in found.items()}
    assert_same(found, abs=1e-3)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [row["score"] for row in rows] == ["0.875000", "0.500000", "0.250000", ""]


def test_label_studio(data, detections, tmp_path):
    (root,) = export(["label-studio"], data, detections, tmp_path / "out", model="first")
    tasks = json.loads((root / "tasks.json").read_text(encoding="utf-8"))
    config = ElementTree.parse(root / "config.xml").getroot()
    assert [x.get("value") for x in config.iter("Label")] == list(NAMES)
    image, labels = config.find("Image"), config.find("RectangleLabels")
    found = {}
    for task in tasks:
        folder, _, name = unquote(task["data"]["image"]).partition("?d=")[2].partition("/")
        assert folder == "pictures"
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "first"
        found[name] = []
        for x in prediction["result"]:
            assert (x["from_name"], x["to_name"]) == (labels.get("name"), image.get("name"))
            assert (x["original_width"], x["original_height"]) == (80, 50)
            value = x["value"]
            (label,) = value["rectanglelabels"]
            # In percent of the image, as its documentation says.
            x0, y0 = value["x"] * 0.8, value["y"] * 0.5
            box = [x0, y0, x0 + value["width"] * 0.8, y0 + value["height"] * 0.5]
            found[name].append((NAMES.index(label), box))
        found[name].sort()
    assert_same(found, abs=1e-9)
    assert len({x["id"] for task in tasks for x in task["predictions"][0]["result"]}) == 3


def test_the_command_line_knows_the_formats():
    (action,) = (x for x in get_parser()._actions if x.dest == "export")
    assert list(action.choices) == list(FORMATS)


def test_an_unknown_format_is_told(data, detections, tmp_path):
    with pytest.raises(ConfigError, match="no format 'xml'; choose of coco, yolo"):
        export(["xml"], data, detections, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "malformed json"),
        ("{}", "are a list"),
        ('[{"image_id": 7, "category_id": 10, "score": 1}]', "'bbox'"),
        ('[{"image_id": 8, "category_id": 10, "score": 1, "bbox": [0, 0, 1, 1]}]', "8.*data set"),
        ('[{"image_id": 7, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]', "no category 1"),
        ('[{"image_id": 7, "score": 1, "bbox": [0, 0, 1, 1]}]', "lacks.*'category_id'"),
        ('[{"image_id": 7, "category_id": 10, "score": 1, "bbox": [0, 0, 1]}]', "no COCO result"),
        ('[{"image_id": 7, "category_id": 10, "score": NaN, "bbox": [0, 0, 1, 1]}]', "not finite"),
        ("[7]", "no COCO result"),
    ],
)
def test_wrong_files_of_predictions_are_told(data, tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=rf"x\.json.*{message}"):
        read_detections(tmp_path / "x.json", data)
    with pytest.raises(MissingFileError, match="gone.json"):
        read_detections(tmp_path / "gone.json", data)

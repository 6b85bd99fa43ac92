"""The lowest score of each class."""

import json

import pytest

from sparsercnn.errors import ConfigError, MissingFileError
from sparsercnn.inference.class_names import ClassNames
from sparsercnn.inference.detections import Detections
from sparsercnn.inference.predictor import Predictor
from sparsercnn.inference.thresholds import read_thresholds

NAMES = ["mug", "spoon", "plate", "pot", "pan", "jar"]


def test_each_class_has_its_own(detections):
    found = Detections(detections, ClassNames(NAMES))  # a spoon of 0.75, a jar of 0.5
    zero = dict.fromkeys(NAMES, 0.0)
    assert found.above({**zero, "spoon": 0.8}).names == ["jar"]
    assert found.above({**zero, "jar": 0.51}).names == ["spoon"]
    assert found.above({**zero, "jar": 0.5, "spoon": 0.75}).names == ["spoon", "jar"]
    assert len(found[:0].above(zero)) == 0


def test_a_class_without_one_is_told(detections):
    found = Detections(detections, ClassNames(NAMES))
    with pytest.raises(ConfigError, match="no lowest score for the model's class 'plate'"):
        found.above({"mug": 0.1, "spoon": 0.2})
    with pytest.raises(ConfigError, match="'mug' is 1.5; it must be 0 to 1"):
        found.above(dict.fromkeys(NAMES, 1.5))


def test_the_predictor_uses_them(files, write_picture):
    from sparsercnn.engine.setup import load_demo_config

    predictor = Predictor(load_demo_config(files, ["MODEL.DEVICE", "cpu"]))
    names = predictor.labels.things
    path = write_picture("a.png")
    found = predictor(path)
    name = found.names[0]
    others = {x: 1.0 if x != name else 0.0 for x in names}
    kept = predictor(path, threshold=others)
    assert set(kept.names) == {name} and len(kept) == found.names.count(name)
    assert len(predictor.stages(path, threshold=others)[-1]) == len(kept)


def test_files(tmp_path):
    path = tmp_path / "thresholds.json"
    whole = {"iou": 0.5, "classes": {"a": {"score": 0.25, "f1": None}, "b": {"score": 1}}}
    path.write_text(json.dumps(whole))
    assert read_thresholds(path) == {"a": 0.25, "b": 1.0}
    path.write_text('{"a": 0.5}')
    assert read_thresholds(path) == {"a": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "malformed json"),
        ("[0.5]", "no scores of classes"),
        ('{"classes": {}}', "no scores of classes"),
        ('{"a": "x"}', "'a' is 'x'"),
        ('{"a": {"f1": 1}}', "'a' is None"),
        ('{"a": true}', "'a' is True"),
        ('{"a": NaN}', "'a' is nan"),
    ],
)
def test_wrong_files_are_told(tmp_path, text, message):
    path = tmp_path / "thresholds.json"
    path.write_text(text)
    with pytest.raises(
        ConfigError, match=rf"thresholds\.json.*{message}.*thresholds.json of a rep"
    ):
        read_thresholds(path)
    with pytest.raises(MissingFileError, match="gone.json does not exist"):
        read_thresholds(tmp_path / "gone.json")

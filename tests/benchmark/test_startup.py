import argparse
import json
import re

from sparsercnn.benchmark import startup
from sparsercnn.benchmark.startup import StartResult
from sparsercnn.data.coco import read_coco


def test_the_data_set_is_of_cocos_form_and_proportions(tmp_path):
    assert startup.write_data_set(str(tmp_path), 30, num_points=5) == 218
    content = read_coco(str(tmp_path / "instances.json"))
    assert len(content["images"]) == 30 and len(list((tmp_path / "images").iterdir())) == 30
    assert len(content["annotations"]) == 218 and len(content["categories"]) == 80
    sizes = {x["id"]: (x["width"], x["height"]) for x in content["images"]}
    for x in content["annotations"]:
        (polygon,), box = x["segmentation"], x["bbox"]
        assert len(polygon) == 10
        assert box[0] + box[2] <= sizes[x["image_id"]][0]
        assert box[0] - 0.01 <= min(polygon[::2]) <= max(polygon[::2]) <= box[0] + box[2] + 0.02
    other = tmp_path / "other"
    other.mkdir()
    startup.write_data_set(str(other), 30, num_points=5)
    assert json.loads((other / "instances.json").read_text()) == content


def test_a_start_is_measured(tmp_path):
    startup.write_data_set(str(tmp_path), 30)
    result = startup.measure("first", str(tmp_path))
    assert result.seconds > 0 and result.read > 0
    assert result.peak >= 0


def test_ratios_are_to_detectron2(monkeypatch):
    mib = 2**20
    results = {
        "detectron2": StartResult(40.0, 2000 * mib, 900 * mib, 900 * mib, 20e-6),
        "first": StartResult(10.0, 500 * mib, 50 * mib, 400 * mib, 40e-6),
        "later": StartResult(2.0, 100 * mib, 50 * mib, 225 * mib, 40e-6),
    }
    monkeypatch.setattr(startup, "measure", lambda name, folder, processes=1: results[name])
    parser = argparse.ArgumentParser()
    startup.add_arguments(parser)
    text = startup.run(parser.parse_args(["--images", "20"]))
    assert "20 images, 145 boxes with polygons of 20 points" in text
    lines = re.sub(" +", " ", text).splitlines()
    assert "| first | 10.00 | 0.25 | 500 | 0.25 | 50 | 400 | 40 |" in lines

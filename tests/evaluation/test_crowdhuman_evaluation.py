"""From CrowdHuman's own files, through the loader, to the metrics; what cannot be compared."""

import json
import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from sparsercnn.data import build_test_loader, register_crowdhuman
from sparsercnn.data.crowdhuman import convert_crowdhuman
from sparsercnn.engine.setup import load_config
from sparsercnn.evaluation import (
    CrowdHumanEvaluator,
    build_evaluator,
    crowdhuman_evaluation,
)

NAME = "CrowdHuman_val"
PERSON, MASK = {"tag": "person"}, {"tag": "mask", "extra": {"ignore": 1}}
IMAGES = {
    "crowd": [
        {**PERSON, "fbox": [10, 10, 10, 20]},
        {**PERSON, "fbox": [30, 10, 10, 20], "head_attr": {"ignore": 1}},  # the head's alone
        {**PERSON, "fbox": [90, 40, 40, 40]},  # a quarter of it in the image
        {**MASK, "fbox": [50, 0, 40, 40]},
    ],
    "only ignored": [{**MASK, "fbox": [0, 0, 60, 40]}],
    "empty": [],
    "nothing found": [{**PERSON, "fbox": [0, 0, 20, 20], "extra": {"occ": 0}}],
}
FOUND = {
    1: [
        (0.9, [10, 10, 20, 30]),  # exact
        (0.8, [90, 40, 110, 60]),  # the part in the image
        (0.7, [60, 10, 70, 20]),  # in the ignored region
        (0.6, [0, 40, 10, 60]),  # wrong
        *[(0.01, [60, 10, 70, 20])] * 200,
    ],
    2: [(0.95, [0, 0, 20, 20])],
    3: [],
    4: [],
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The data set in its own format, registered until the end of the test; images 110 x 60."""
    folder = tmp_path / "crowdhuman" / NAME
    folder.mkdir(parents=True)
    lines = [json.dumps({"ID": name, "gtboxes": boxes}) for name, boxes in IMAGES.items()]
    (folder.parent / "annotation_val.odgt").write_text("\n".join(lines))
    for name in IMAGES:
        Image.new("RGB", (110, 60)).save(folder / f"{name}.jpg")
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in ("CrowdHuman_train", NAME):
            monkeypatch.delitem(catalog.data, name)
    register_crowdhuman(str(folder.parent))
    convert_crowdhuman(str(folder.parent), "val")
    return folder.parent


@pytest.fixture
def evaluator(root):
    return CrowdHumanEvaluator(NAME)


def _instances(detections, pred_class=0):
    instances = Instances((60, 110))
    boxes = torch.tensor([box for _, box in detections], dtype=torch.float32)
    instances.pred_boxes = Boxes(boxes.reshape(-1, 4))
    instances.scores = torch.tensor([score for score, _ in detections], dtype=torch.float32)
    instances.pred_classes = torch.full((len(detections),), pred_class)
    return instances


def _process(evaluator, image_id, detections, **kwargs):
    evaluator.process([{"image_id": image_id}], [{"instances": _instances(detections, **kwargs)}])


def _results(evaluator):
    return evaluator.evaluate()["bbox"]


# Four persons. Right, right, wrong: recall 1/4, 1/2, 1/2, with precision 1, 1, 2/3. Four images:
# the wrong one makes 1/4 false positives per image, when 1/2 is missed. JI: best above 0.6, without
# the wrong one, 2 of the 3 persons of the first image, 0 in the last; the others have nothing that
# counts.
EXPECTED = {"AP50": 50, "MR": 50, "JI": 100 * (2 / 3) / 2}


def test_from_the_files_to_the_metrics(root, tiny_cfg, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tiny_cfg.DATASETS.TEST = (NAME,)
    tiny_cfg.INPUT.MIN_SIZE_TEST = 60
    loader = build_test_loader(tiny_cfg, NAME)
    evaluator = build_evaluator(tiny_cfg, NAME, str(tmp_path / "out"))
    assert type(evaluator) is CrowdHumanEvaluator
    for inputs in loader:
        evaluator.process(inputs, [{"instances": _instances(FOUND[inputs[0]["image_id"]])}])
    results = _results(evaluator)
    assert results == pytest.approx(EXPECTED)
    assert all(type(x) is float for x in results.values())
    assert "AP50" in caplog.text and "no predictions" not in caplog.text

    written = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert len(written) == 205  # 204 of one image
    assert written[1]["image_id"] == 1 and written[1]["bbox"] == [90, 40, 20, 20]
    assert written[1]["category_id"] == 1 and written[1]["score"] == pytest.approx(0.8)


def test_workers_results_are_put_together_each_image_once(root, monkeypatch):
    workers = [CrowdHumanEvaluator(NAME) for _ in range(2)]
    for image_id in (4, 2, 1):
        _process(workers[0], image_id, FOUND[image_id])
    for image_id in (3, 1):  # once more, as a sampler that fills up its last batch would
        _process(workers[1], image_id, FOUND[image_id])
    sent = []
    gather = crowdhuman_evaluation.comm.gather
    monkeypatch.setattr(
        crowdhuman_evaluation.comm, "gather", lambda x, dst: sent.append(x) or gather(x, dst)
    )
    for worker in workers:
        worker.evaluate()
    monkeypatch.setattr(crowdhuman_evaluation.comm, "gather", lambda x, dst: sent)
    assert _results(workers[0]) == pytest.approx(EXPECTED)
    monkeypatch.setattr(crowdhuman_evaluation.comm, "is_main_process", lambda: False)
    assert workers[1].evaluate() == {}


def test_the_best_checkpoint_of_the_config_is_by_one_of_them(repository):
    cfg = load_config(
        str(repository / "configs/sparse_rcnn/sparsercnn.crowdhuman.res50.500pro.50e.yaml")
    )
    task, _, metric = cfg.TEST.BEST_METRIC.partition("/")
    assert task == "bbox" and metric in EXPECTED


def test_reset_forgets(evaluator):
    _process(evaluator, 4, [(0.9, [0, 0, 20, 20])])
    evaluator.reset()
    for image_id, detections in FOUND.items():
        _process(evaluator, image_id, detections)
    assert _results(evaluator) == pytest.approx(EXPECTED)


def test_images_without_predictions_are_counted_and_named(evaluator, caplog):
    _process(evaluator, 1, FOUND[1])
    assert _results(evaluator) == pytest.approx(EXPECTED)  # the others had nothing that counts
    assert "no predictions for 3 of 4 images" in caplog.text


def test_what_is_left_out_is_not_compared_with(root, tiny_cfg):
    (root / NAME / "nothing found.jpg").write_bytes(b"no image")
    tiny_cfg.DATASETS.TEST, tiny_cfg.DATASETS.SKIP_INVALID = (NAME,), True
    build_test_loader(tiny_cfg, NAME)
    evaluator = build_evaluator(tiny_cfg, NAME, None)
    for image_id in (1, 2, 3):
        _process(evaluator, image_id, FOUND[image_id])
    assert _results(evaluator)["JI"] == pytest.approx(100 * 2 / 3)
    with pytest.raises(ValueError, match="CrowdHuman_val.*no image with the id 4"):
        _process(evaluator, 4, [])


@pytest.mark.parametrize("score, left", [(float("nan"), 0.0), (0.5, float("inf"))])
def test_detections_that_are_not_finite_are_an_error(evaluator, score, left):
    with pytest.raises(FloatingPointError, match="image id 3: 1 of 2 .*not finite.*checkpoint"):
        _process(evaluator, 3, [(0.9, [0, 0, 9, 9]), (score, [left, 0, 9, 9])])


def test_a_second_class_is_explained(evaluator, root):
    with pytest.raises(ValueError, match="predicted class 4.*has 1 class.*NUM_CLASSES"):
        _process(evaluator, 1, FOUND[1], pred_class=4)
    path = root / "annotations" / "val.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 2, "name": "rider"})
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="one class, but 'CrowdHuman_val' has 2.*'coco'"):
        CrowdHumanEvaluator(NAME)


def test_annotations_without_iscrowd_are_persons(root):
    path = root / "annotations" / "val.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    path.write_text(json.dumps(content))
    evaluator = CrowdHumanEvaluator(NAME)
    _process(evaluator, 2, [(0.9, [0, 0, 60, 40])])
    # One of six persons, found at once.
    assert _results(evaluator)["AP50"] == pytest.approx(100 / 6)


def test_the_annotations_of_other_tools_are_refused_with_the_remedy(root):
    path = root / "annotations" / "val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["ignore"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'val\.json.*"ignore".*use "iscrowd"'):
        CrowdHumanEvaluator(NAME)


def test_without_annotations_the_detections_are_written(root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = root / "annotations" / "val.json"
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    evaluator = CrowdHumanEvaluator(NAME, output_dir=str(tmp_path / "out"))
    for image_id, detections in FOUND.items():
        _process(evaluator, image_id, detections)
    assert evaluator.evaluate() == {} and "no annotations" in caplog.text
    assert len(json.loads((tmp_path / "out/coco_instances_results.json").read_text())) == 205
    evaluator.reset()
    evaluator.evaluate()
    assert json.loads((tmp_path / "out/coco_instances_results.json").read_text()) == []

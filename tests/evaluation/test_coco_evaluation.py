import json
import logging
import math
import uuid

import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparsercnn.evaluation import COCOEvaluator, build_evaluator, coco_evaluation, evaluate_on_coco

HEIGHT, WIDTH = 100, 120


def _polygon(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + 0.8 * w, y + h, x, y + 0.9 * h]]


def _uncompressed(rle):
    """Run lengths as a list, the form of crowds in COCO's files."""
    pixels = pycocotools.mask.decode(rle).flatten(order="F")
    changes = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff([0, *changes, len(pixels)]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *counts] if pixels[0] else counts}


def _rle(box):
    return pycocotools.mask.merge(pycocotools.mask.frPyObjects(_polygon(box), HEIGHT, WIDTH))


class RandomData:
    """Annotations with crowds, in all sizes, on some images none; detections around them, and
    others, on some images none and on some more than the 100 of a class that count; equal
    scores too."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.most_detections = 600 if seed % 4 == 0 else 12
        self.equal_scores = seed % 3 == 0
        self.annotations, self.results = [], []
        self.images = [{"id": 3 * i + 1, "height": HEIGHT, "width": WIDTH} for i in range(6)]
        self.categories = [{"id": 2 * i + 1, "name": f"class {i}"} for i in range(3)]
        for image in self.images:
            self._add_image(image["id"])

    def coco(self):
        api = COCO()
        keys = ("images", "categories", "annotations")
        api.dataset = json.loads(json.dumps({key: getattr(self, key) for key in keys}))
        api.createIndex()
        return api

    def _add_image(self, image_id):
        random = self.random
        objects = []
        for _ in range(random.integers(0, 6)):
            box, crowd = self._box(), int(random.random() < 0.2)
            area = float(random.uniform(0.5, 1) * box[2] * box[3])
            mask = _uncompressed(_rle(box)) if crowd else _polygon(box)
            objects.append({"image_id": image_id, "category_id": self._category(), "bbox": box})
            objects[-1].update(area=area, iscrowd=crowd, segmentation=mask)
        for i, x in enumerate(objects, start=len(self.annotations) + 1):
            self.annotations.append({"id": i, **x})
        for _ in range(random.integers(0, self.most_detections) * (random.random() < 0.8)):
            box, category = self._box(), self._category()
            if objects and random.random() < 0.7:
                near = objects[random.integers(len(objects))]
                box = np.maximum(near["bbox"] + random.normal(0, 2, 4), 1).tolist()
                category = near["category_id"] if random.random() < 0.8 else category
            mask = _rle(box)
            mask["counts"] = mask["counts"].decode()
            score = float(random.random())
            score = round(4 * score) / 4 if self.equal_scores else score
            self.results.append({"image_id": image_id, "category_id": category, "bbox": box})
            self.results[-1].update(score=score, segmentation=mask)

    def _category(self):
        return self.categories[self.random.integers(len(self.categories))]["id"]

    def _box(self):
        x, y = self.random.uniform(0, [WIDTH - 20, HEIGHT - 20])
        w, h = self.random.uniform(2, [WIDTH - x, HEIGHT - y])
        return [float(x), float(y), float(w), float(h)]


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(12))
def test_faster_coco_eval_gives_the_numbers_of_pycocotools(seed, task):
    faster = pytest.importorskip("faster_coco_eval")
    data = RandomData(seed)
    evals = [
        evaluate_on_coco(data.coco(), data.results, task, eval_class=eval_class)
        for eval_class in (COCOeval, faster.COCOeval_faster)
    ]
    assert 0 < evals[0].stats[0] < 1
    np.testing.assert_allclose(evals[1].stats[:12], evals[0].stats, rtol=0, atol=1e-12)
    for key in ("precision", "recall"):
        np.testing.assert_allclose(evals[1].eval[key], evals[0].eval[key], rtol=0, atol=1e-12)


def test_the_random_data_has_what_it_should():
    data = [RandomData(seed) for seed in range(12)]
    counts = [
        sum(x["image_id"] == image and x["category_id"] == category for x in d.results)
        for d in data
        for image in (1, 4, 7, 10, 13, 16)
        for category in (1, 3, 5)
    ]
    assert max(counts) > 100 and min(counts) == 0
    annotations = [x for d in data for x in d.annotations]
    assert {x["iscrowd"] for x in annotations} == {0, 1}
    assert {x["area"] < 32**2 for x in annotations} == {True, False}
    assert any(len({x["image_id"] for x in d.annotations}) < 6 for d in data)


def test_the_size_of_a_mask_is_its_own_not_its_boxs():
    data = RandomData(1)
    before = json.dumps(data.results)
    detection = evaluate_on_coco(data.coco(), data.results, "segm").cocoDt.anns[1]
    assert detection["area"] == pycocotools.mask.area(data.results[0]["segmentation"])
    assert json.dumps(data.results) == before  # the next task finds them unchanged


@pytest.fixture
def dataset(tmp_path):
    """Registers COCO-format ground truth; returns its name."""

    def register(annotations, names=("cat", "dog"), num_images=1):
        name = f"test_{uuid.uuid4().hex}"
        path = tmp_path / f"{name}.json"
        content = {
            "info": {},
            "images": [{"id": i, "height": 100, "width": 100} for i in range(num_images)],
            "categories": [{"id": 10 + i, "name": x} for i, x in enumerate(names)],
            "annotations": [
                {"id": i + 1, "image_id": image, "category_id": 10 + c, "bbox": box, "iscrowd": 0}
                | {"area": box[2] * box[3]}
                for i, (image, c, box) in enumerate(annotations)
            ],
        }
        path.write_text(json.dumps(content))
        MetadataCatalog.get(name).set(
            json_file=str(path),
            thing_classes=list(names),
            thing_dataset_id_to_contiguous_id={10 + i: i for i in range(len(names))},
            evaluator_type="coco",
        )
        return name

    return register


def _detections(*detections):
    """Instances of (class, score, xyxy box)."""
    instances = Instances((100, 100))
    instances.pred_classes = torch.tensor([x[0] for x in detections], dtype=torch.int64)
    instances.scores = torch.tensor([x[1] for x in detections], dtype=torch.float32)
    boxes = torch.tensor([x[2] for x in detections], dtype=torch.float32)
    instances.pred_boxes = Boxes(boxes.reshape(-1, 4))
    return instances


def _evaluate(evaluator, *images):
    evaluator.reset()
    for i, instances in enumerate(images):
        evaluator.process([{"image_id": i}], [{"instances": instances}])
    return evaluator.evaluate()


@pytest.mark.parametrize("backend", ["auto", "pycocotools"])
def test_a_case_worked_by_hand(dataset, tmp_path, backend, caplog, monkeypatch):
    name = dataset([(0, 0, [10, 10, 20, 20]), (0, 1, [50, 50, 40, 40])])
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path / "out"), backend=backend)
    caplog.set_level(logging.INFO, logger="detectron2")
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    found = _detections(
        (0, 0.9, [10.0, 10.0, 30.0, 30.0]),  # exact
        (1, 0.8, [50.0, 50.0, 90.0, 74.0]),  # IoU 0.6: right at 0.5, 0.55 and 0.6 of 10
    )
    results = _evaluate(evaluator, found)["bbox"]
    assert results["AP-cat"] == pytest.approx(100)
    assert results["AP-dog"] == pytest.approx(30)
    assert results["AP"] == pytest.approx(65)
    assert results["AP50"] == pytest.approx(100) and results["AP75"] == pytest.approx(50)
    assert "Per-category bbox AP" in caplog.text and "dog" in caplog.text
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [x["category_id"] for x in written] == [10, 11]  # the data set's own ids
    assert written[0]["bbox"] == [10, 10, 20, 20]


@pytest.mark.parametrize("backend", ["auto", "pycocotools"])
@pytest.mark.parametrize("ids", [[0, 1, 2], [-3, -2, -1], ["t0", "t1", "t2"]])
def test_ids_that_are_not_above_0_count_like_others(dataset, ids, backend):
    boxes = [[10.0 * i, 10.0 * i, 10.0, 20.0] for i in range(3)]
    name = dataset([(i, 0, box) for i, box in enumerate(boxes)], num_images=3)
    path = MetadataCatalog.get(name).json_file
    with open(path) as file:
        content = json.load(file)
    for annotation, number in zip(content["annotations"], ids, strict=True):
        annotation["id"] = number
    with open(path, "w") as file:
        json.dump(content, file)
    found = [_detections((0, 0.9, [x, y, x + w, y + h])) for x, y, w, h in boxes]
    results = _evaluate(COCOEvaluator(name, backend=backend), *found)["bbox"]
    assert results["AP-cat"] == pytest.approx(100)


def test_images_may_have_text_as_id(dataset):
    name = dataset([(0, 0, [10, 10, 20, 20])])
    path = MetadataCatalog.get(name).json_file
    with open(path) as file:
        content = json.load(file)
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = "a"
    with open(path, "w") as file:
        json.dump(content, file)
    evaluator = COCOEvaluator(name)
    evaluator.reset()
    found = _detections((0, 0.9, [10.0, 10.0, 30.0, 30.0]))
    evaluator.process([{"image_id": "a"}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP-cat"] == pytest.approx(100)


def test_one_class_has_its_ap_too(dataset):
    name = dataset([(0, 0, [10, 10, 20, 20])], names=("cell",))
    results = _evaluate(COCOEvaluator(name), _detections((0, 0.9, [10.0, 10.0, 30.0, 30.0])))
    assert results["bbox"]["AP-cell"] == results["bbox"]["AP"] == pytest.approx(100)


def test_no_detections_at_all_are_no_error(dataset):
    name = dataset([(0, 0, [10, 10, 20, 20])], num_images=2)
    results = _evaluate(COCOEvaluator(name), _detections(), _detections())["bbox"]
    assert math.isnan(results["AP"]) and math.isnan(results["AP-dog"])


def test_no_annotations_are_no_error(dataset):
    results = _evaluate(COCOEvaluator(dataset([])), _detections((0, 0.9, [10.0, 10.0, 30.0, 30.0])))
    assert math.isnan(results["bbox"]["AP"])


def test_at_most_100_detections_of_a_class_count(dataset):
    name = dataset([(0, 0, [10, 10, 20, 20])])
    wrong = [(0, 0.9, [60.0, 60.0, 90.0, 90.0])] * 100
    right = (0, 0.1, [10.0, 10.0, 30.0, 30.0])
    assert _evaluate(COCOEvaluator(name), _detections(*wrong, right))["bbox"]["AP"] == 0
    assert _evaluate(COCOEvaluator(name), _detections(*wrong[1:], right))["bbox"]["AP"] > 0


def test_a_class_that_the_data_lacks_is_explained(dataset):
    name = dataset([(0, 0, [10, 10, 20, 20])])
    with pytest.raises(ValueError, match="predicted class 2.*has 2 classes.*NUM_CLASSES"):
        _evaluate(COCOEvaluator(name), _detections((2, 0.9, [10.0, 10.0, 30.0, 30.0])))


def test_backends(dataset, monkeypatch):
    name = dataset([])
    with pytest.raises(ValueError, match="TEST.COCO_EVAL is 'fast'.*pycocotools"):
        COCOEvaluator(name, backend="fast")
    monkeypatch.setattr(coco_evaluation, "COCOeval_faster", None)
    assert COCOEvaluator(name, backend="auto")._eval_class is COCOeval
    with pytest.raises(ValueError, match="pip install faster-coco-eval"):
        COCOEvaluator(name, backend="faster_coco_eval")


def test_evaluator_by_type(dataset, tiny_cfg, tmp_path):
    name = dataset([])
    tiny_cfg.TEST.COCO_EVAL = "pycocotools"
    evaluator = build_evaluator(tiny_cfg, name, str(tmp_path))
    assert type(evaluator) is COCOEvaluator and evaluator._eval_class is COCOeval

    name = f"test_{uuid.uuid4().hex}"
    DatasetCatalog.register(name, lambda: [{"file_name": "a.jpg", "sem_seg_file_name": "a.png"}])
    MetadataCatalog.get(name).set(evaluator_type="sem_seg", stuff_classes=["ground"])
    MetadataCatalog.get(name).set(ignore_label=255)
    assert isinstance(build_evaluator(tiny_cfg, name, str(tmp_path)), SemSegEvaluator)

    unknown = MetadataCatalog.get(f"test_{uuid.uuid4().hex}")
    with pytest.raises(ValueError, match=f"'{unknown.name}' has evaluator_type 'None'.*coco"):
        build_evaluator(tiny_cfg, unknown.name, str(tmp_path))

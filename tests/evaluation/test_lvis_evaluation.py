"""LVIS's metrics: worked by hand, and against the package of the data set's authors."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from sparsercnn.data import DataError, build_test_loader, register_datasets
from sparsercnn.engine.setup import load_config
from sparsercnn.errors import MissingFileError
from sparsercnn.evaluation import LVISEvaluator, build_evaluator, lvis_metrics
from sparsercnn.extras import MissingExtraError

pytest.importorskip("faster_coco_eval")


@pytest.fixture(autouse=True)
def _cache_in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


def image(number, negative=(), not_exhaustive=(), **fields):
    return {
        "id": number,
        "height": 100,
        "width": 120,
        "neg_category_ids": list(negative),
        "not_exhaustive_category_ids": list(not_exhaustive),
        **fields,
    }


def objects(*items):
    """Annotations or detections of (image, category, box, score)."""
    made = []
    for number, (image_id, category, box, *score) in enumerate(items, start=1):
        x0, y0, w, h = box
        corners = [x0, y0, x0 + w, y0, x0 + w, y0 + h, x0, y0 + h]
        own = {"image_id": image_id, "category_id": category, "bbox": list(box)}
        if score:
            made.append({**own, "score": score[0]})
        else:
            own.update(id=number, area=w * h, segmentation=[corners])
            made.append(own)
    return made


CATEGORIES = [
    {"id": number, "name": name, "frequency": frequency, "synset": name, "synonyms": [name]}
    for number, (name, frequency) in enumerate(zip("abcd", "rcff", strict=True), start=1)
]


def test_rules_by_hand():
    box, elsewhere = (10, 10, 40, 40), (70, 70, 20, 20)
    truth = {
        "images": [image(1, negative=[2]), image(2, not_exhaustive=[1])],
        "annotations": objects((1, 1, box), (2, 1, box), (1, 3, box)),
        "categories": CATEGORIES,
    }
    right = [(1, 1, box, 0.5), (2, 1, box, 0.6)]
    found = objects(
        *right,
        (2, 1, elsewhere, 0.9),  # not all objects of class 1 are annotated there: ignored
        (1, 4, elsewhere, 0.9),  # nothing is known of class 4: ignored
        (1, 3, elsewhere, 0.9),  # wrong
        (1, 3, box, 0.4),
    )
    metrics = lvis_metrics(truth, found, "bbox")
    assert metrics["AP-a"] == metrics["APr"] == pytest.approx(100)
    assert metrics["AP-c"] == metrics["APf"] == pytest.approx(50)  # one wrong before one right
    assert metrics["AP"] == metrics["AP50"] == pytest.approx(75)
    # No object: no AP, although class 2 is known to be absent from image 1.
    assert math.isnan(metrics["APc"]) and math.isnan(metrics["AP-b"])
    # Where class 1 is known exhaustively, the same detection counts.
    truth["images"][1]["not_exhaustive_category_ids"] = []
    assert lvis_metrics(truth, found, "bbox")["AP-a"] < 70
    assert lvis_metrics(truth, [], "bbox")["AP"] == 0


def test_the_best_300_of_an_image_count():
    truth = {
        "images": [image(1)],
        "annotations": objects((1, 1, (10, 10, 40, 40)), (1, 2, (60, 10, 30, 40))),
        "categories": CATEGORIES,
    }
    others = [(1, 1, (80, 80, 5, 5), 0.9)] * 299
    found = objects(*others, (1, 2, (60, 10, 30, 40), 0.5), (1, 1, (10, 10, 40, 40), 0.4))
    metrics = lvis_metrics(truth, found, "bbox")
    assert metrics["AP-b"] == pytest.approx(100) and metrics["AP-a"] == 0


def random_case(seed):
    rng = np.random.default_rng(seed)
    images, annotations, found = [], [], []
    for number in range(1, 9):
        names = rng.permutation([1, 2, 3, 4]).tolist()
        images.append(image(number, negative=names[:1], not_exhaustive=names[1:2]))
        for category in names[1:3]:
            for _ in range(rng.integers(1, 4)):
                side = rng.integers(8, 60, 2)
                box = [*rng.integers(0, 100 - side), *side]
                annotations.append((number, category, [int(x) for x in box]))
                moved = [float(x) for x in np.array(box) + rng.normal(0, 3, 4)]
                found.append((number, category, moved, float(rng.random())))
        for _ in range(6):
            box = [float(x) for x in (*rng.integers(0, 60, 2), *rng.integers(5, 40, 2))]
            found.append((number, int(rng.integers(1, 5)), box, float(rng.random())))
    truth = {"images": images, "annotations": objects(*annotations), "categories": CATEGORIES}
    return truth, objects(*found)


@pytest.mark.parametrize("seed", range(3))
def test_as_the_authors_package(tmp_path, monkeypatch, seed):
    lvis = pytest.importorskip("lvis")
    monkeypatch.setattr(np, "float", float, raising=False)  # which it uses, and NumPy has removed
    truth, found = random_case(seed)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    theirs = lvis.LVIS(str(tmp_path / "truth.json"))
    evaluation = lvis.LVISEval(theirs, lvis.LVISResults(theirs, found, max_dets=300), "bbox")
    evaluation.run()
    expected = evaluation.get_results()
    ours = lvis_metrics(truth, objects(*_items(found)), "bbox")
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"):
        if expected[name] >= 0:
            assert ours[name] == pytest.approx(100 * expected[name], abs=1e-6), name
        else:
            assert math.isnan(ours[name])
    assert 5 < ours["AP"] < 95


def _items(found):
    return [(x["image_id"], x["category_id"], x["bbox"], x["score"]) for x in found]


@pytest.fixture
def entry(tmp_path):
    """A file as LVIS v1 has it: without "file_name" and "iscrowd"."""
    truth, _ = random_case(0)
    (tmp_path / "images/val2017").mkdir(parents=True)
    for x in truth["images"]:
        x["coco_url"] = f"http://images.cocodataset.org/val2017/{x['id']:012}.jpg"
        Image.new("RGB", (120, 100)).save(tmp_path / f"images/val2017/{x['id']:012}.jpg")
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps(truth))
    return f"lvis:{tmp_path}/lvis_v1_val.json@{tmp_path}/images"


def test_names_of_2014_in_v05_are_not_those_of_the_files(entry, tmp_path):
    path = tmp_path / "lvis_v1_val.json"
    content = json.loads(path.read_text())
    for x in content["images"]:
        x["file_name"] = f"COCO_val2014_{x['id']:012}.jpg"
    path.write_text(json.dumps(content))
    register_datasets([entry])
    names = [x["file_name"] for x in DatasetCatalog.get(entry)]
    assert names and all(Path(x).is_file() and "/val2017/" in x for x in names)


def test_an_entry_is_loaded_and_evaluated(entry, tmp_path):
    register_datasets([entry])
    metadata = MetadataCatalog.get(entry)
    assert metadata.thing_classes == ["a", "b", "c", "d"] and metadata.evaluator_type == "lvis"
    opts = ["MODEL.SparseRCNN.NUM_CLASSES", "4", "DATALOADER.NUM_WORKERS", "0"]
    cfg = load_config("quickstart/sparsercnn", opts, register=False)
    loader = build_test_loader(cfg, entry)
    evaluator = build_evaluator(cfg, entry, str(tmp_path / "out"))
    assert isinstance(evaluator, LVISEvaluator)
    evaluator.reset()
    truth = json.loads((tmp_path / "lvis_v1_val.json").read_text())
    for (x,) in loader:
        own = [a for a in truth["annotations"] if a["image_id"] == x["image_id"]]
        found = Instances((100, 120))
        boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        found.pred_boxes = Boxes(boxes)
        found.scores = torch.full((len(own),), 0.9)
        found.pred_classes = torch.tensor([a["category_id"] - 1 for a in own])
        evaluator.process([x], [{"instances": found}])
    metrics = evaluator.evaluate()["bbox"]
    assert metrics["AP"] == metrics["APr"] == metrics["APf"] == pytest.approx(100)
    assert list(metrics)[:9] == ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]


def test_a_second_start_takes_what_is_kept(entry, tmp_path, monkeypatch):
    from sparsercnn.data import lvis

    path = entry.removeprefix("lvis:").partition("@")[0]
    first = lvis.convert_lvis(path)
    monkeypatch.setattr(lvis, "read_json", None)
    assert lvis.convert_lvis(path) == first
    assert str(tmp_path / "user_cache") in first


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda x: x["categories"][0].pop("frequency"), "frequency None; .* r, c or f"),
        (lambda x: x["images"][2].pop("neg_category_ids"), "image id 3 has no list"),
        (lambda x: x["images"][2].pop("coco_url"), 'number 3 of images .* has no "file_name"'),
        (lambda x: x.update(annotations=3), '"annotations" must be a list'),
    ],
)
def test_what_is_no_lvis_file(entry, tmp_path, change, message):
    path = tmp_path / "lvis_v1_val.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        register_datasets([entry])


def test_entries_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="lvis:ANNOTATIONS.json@IMAGE_DIR"):
        register_datasets(["lvis:nothing"])
    with pytest.raises(MissingFileError, match="nothing.json"):
        register_datasets([f"lvis:{tmp_path}/nothing.json@."])
    monkeypatch.setattr("sparsercnn.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="fast-eval"):
        LVISEvaluator("any")

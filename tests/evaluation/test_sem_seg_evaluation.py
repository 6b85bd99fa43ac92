"""The metrics against a direct computation, pixel by pixel, on random label maps."""

import math

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from sparsercnn import add_sparsercnn_config
from sparsercnn.data import DataError
from sparsercnn.evaluation import SemSegEvaluator, build_evaluator, sem_seg_metrics

CLASSES = ["road", "sky", "car", "train", "wall"]
NAME = "test_sem_seg_evaluation"


@pytest.fixture
def evaluate(tmp_path):
    """Register label maps, and evaluate predictions on them."""

    def run(labels, predictions, ignore_label=255, save=lambda array: Image.fromarray(array)):
        records = []
        for i, label in enumerate(labels):
            path = tmp_path / f"{i}.png"
            save(label.astype(np.uint8)).save(path)
            records.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(path)})
        DatasetCatalog.register(NAME, lambda: records)
        MetadataCatalog.get(NAME).set(stuff_classes=CLASSES, ignore_label=ignore_label)
        evaluator = SemSegEvaluator(NAME, output_dir=str(tmp_path / "out"))
        evaluator.reset()
        for record, prediction in zip(records, predictions, strict=True):
            scores = np.eye(len(CLASSES))[prediction].transpose(2, 0, 1)
            evaluator.process([record], [{"sem_seg": torch.tensor(scores)}])
        return evaluator.evaluate()["sem_seg"]

    yield run
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME, None)


def directly(labels, predictions, ignore_label=255):
    """By the definitions, one class after the other."""
    label = np.concatenate([x.ravel() for x in labels])
    prediction = np.concatenate([x.ravel() for x in predictions])
    prediction, label = prediction[label != ignore_label], label[label != ignore_label]
    metrics, ious, accuracies, weighted = {}, [], [], 0
    for k, name in enumerate(CLASSES):
        true, said = label == k, prediction == k
        iou = (true & said).sum() / (true | said).sum() if (true | said).any() else math.nan
        accuracy = said[true].mean() if true.any() else math.nan
        metrics[f"IoU-{name}"], metrics[f"ACC-{name}"] = 100 * iou, 100 * accuracy
        ious += [iou] * int((true | said).any())
        accuracies += [accuracy] * int(true.any())
        weighted += iou * true.mean() if true.any() else 0
    metrics["mIoU"] = 100 * np.mean(ious)
    metrics["mACC"] = 100 * np.mean(accuracies)
    metrics["fwIoU"] = 100 * weighted
    metrics["pACC"] = 100 * (prediction == label).mean()
    return metrics


def assert_are(metrics, expected):
    """There may be others: newer detectron2 adds its boundary IoU."""
    ours = {key: metrics[key] for key in expected}
    assert ours == pytest.approx(expected, abs=1e-9, nan_ok=True)


def random_maps(seed, label_values, predicted_values):
    rng = np.random.default_rng(seed)
    labels = [rng.choice(label_values, (13, 17)), rng.choice(label_values, (9, 21))]
    predictions = [rng.choice(predicted_values, x.shape) for x in labels]
    for label, prediction in zip(labels, predictions, strict=True):
        copied = rng.random(label.shape) < 0.6
        prediction[copied & (label < 5)] = label[copied & (label < 5)]
    return labels, predictions


@pytest.mark.parametrize(
    "label_values, predicted_values",
    [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ([0, 1, 2, 3, 4, 255], [0, 1, 2, 3, 4]),
        ([0, 1, 3, 255], [0, 1, 3]),  # two classes neither there nor predicted
        ([0, 1, 3, 255], [0, 1, 2, 3]),  # one predicted that is not there
        ([0, 1, 2, 255], [0, 1]),  # one there that is never guessed
        ([2], [2]),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_equal_a_direct_computation(evaluate, seed, label_values, predicted_values):
    labels, predictions = random_maps(seed, label_values, predicted_values)
    assert_are(evaluate(labels, predictions), directly(labels, predictions))


def test_another_ignore_label(evaluate):
    labels, predictions = random_maps(3, [0, 1, 2, 4], [0, 1, 2])
    actual, expected = evaluate(labels, predictions, 4), directly(labels, predictions, 4)
    assert actual["mIoU"] == pytest.approx(expected["mIoU"])
    assert math.isnan(actual["IoU-wall"])


def test_a_case_by_hand(evaluate):
    """Of 4 pixels of road 3 are right and 1 is called sky; of 2 of sky both are right; a car of
    2 pixels is called road; 1 pixel does not count."""
    label = np.array([[0, 0, 0, 0, 1, 1, 2, 2, 255]])
    prediction = np.array([[0, 0, 0, 1, 1, 1, 0, 0, 3]])
    metrics = evaluate([label], [prediction])
    assert metrics["pACC"] == pytest.approx(100 * 5 / 8)
    assert metrics["mACC"] == pytest.approx(100 * (3 / 4 + 1 + 0) / 3)
    assert metrics["mIoU"] == pytest.approx(100 * (3 / 6 + 2 / 3 + 0) / 3)
    assert metrics["fwIoU"] == pytest.approx(100 * (4 / 8 * 3 / 6 + 2 / 8 * 2 / 3))
    assert metrics["IoU-car"] == 0 and math.isnan(metrics["IoU-train"])


def test_the_file_has_the_numbers_of_the_table(evaluate, tmp_path):
    metrics = evaluate([np.zeros((2, 3), dtype=int)], [np.eye(2, 3, dtype=int)])  # no sky there
    saved = torch.load(tmp_path / "out" / "sem_seg_evaluation.pth", weights_only=False)
    assert metrics["IoU-sky"] == 0 and saved == pytest.approx(metrics, nan_ok=True)


def test_a_broken_label_map_is_named(evaluate, tmp_path):
    def save(array):
        class Broken:
            def save(self, path):
                path.write_bytes(b"no image")

        return Broken()

    with pytest.raises(DataError, match=r"0\.png cannot be read"):
        evaluate([np.zeros((4, 6))], [np.zeros((4, 6), dtype=int)], save=save)


def test_a_predicted_class_that_is_not_there_has_no_overlap():
    metrics = sem_seg_metrics(np.array([[3, 1], [0, 0]]), ["a", "b"])
    assert metrics["IoU-b"] == 0 and metrics["mIoU"] == pytest.approx(37.5)
    assert math.isnan(metrics["ACC-b"]) and metrics["mACC"] == pytest.approx(75)


def test_without_any_pixel_nothing_is_known():
    metrics = sem_seg_metrics(np.zeros((2, 2)), ["a", "b"])
    assert all(math.isnan(value) for value in metrics.values())


def test_palette_label_maps_are_numbers(evaluate):
    def with_palette(array):
        image = Image.fromarray(array)
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
        return image

    labels, predictions = random_maps(0, [0, 1, 2], [0, 1, 2])
    assert_are(evaluate(labels, predictions, save=with_palette), directly(labels, predictions))


@pytest.mark.parametrize(
    "label, message",
    [
        (np.full((4, 6), 5), r"0.png holds the values 5, but there are 5 classes, 0 to 4"),
        (np.full((6, 4), 1), r"0.png has 4 x 6 pixels, but the image has 6 x 4"),
    ],
)
def test_label_maps_that_cannot_be_compared_are_named(evaluate, label, message):
    with pytest.raises(DataError, match=message):
        evaluate([label], [np.zeros((4, 6), dtype=int)])


def test_cityscapes_and_folders_get_this_evaluator(evaluate):
    evaluate([np.zeros((2, 2))], [np.zeros((2, 2), dtype=int)])
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    for evaluator_type in ("sem_seg", "cityscapes_sem_seg"):
        MetadataCatalog.get(NAME).evaluator_type = evaluator_type
        assert isinstance(build_evaluator(cfg, NAME, None), SemSegEvaluator)
        del MetadataCatalog.get(NAME).evaluator_type

"""Average precision is that of COCO's own program, and of data with repeated images."""

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparsercnn.evaluation import evaluate_on_coco
from sparsercnn.report.inference import Run
from sparsercnn.report.matching import AREAS, match
from sparsercnn.report.precision import Curves, average_precision, bootstrap, make_curve, summaries
from sparsercnn.report.records import as_detections
from sparsercnn.report.result import analyse
from sparsercnn.report.sections import precision_table

NUM_CLASSES, NUM_IMAGES = 3, 40


def random_data(truth, seed):
    """Objects of all sizes, crowds among them; some detections near them, many of equal scores."""
    rng = np.random.default_rng(seed)
    objects, results = [], []
    for image in range(NUM_IMAGES):
        for _ in range(rng.poisson(4)):
            corner, sides = rng.integers(0, 200, 2), np.exp(rng.normal(4, 1, 2)).round() + 2
            box = np.concatenate([corner, corner + sides])
            objects.append((image, int(rng.integers(NUM_CLASSES)), box))
            if rng.uniform() < 0.4:  # a detection reaches both, which may be of two sizes
                twin = np.concatenate([corner, corner + 1.2 * sides])
                objects.append((*objects[-1][:2], twin))
            for _ in range(rng.poisson(3)):
                moved = box + rng.normal(0, 0.1, 4) * np.tile(sides, 2)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                label = objects[-1][1] if rng.uniform() < 0.8 else int(rng.integers(NUM_CLASSES))
                results.append((image, label, moved, round(rng.uniform(), 1)))
    data = truth(objects, NUM_IMAGES, ("a", "b", "none", "c")[:NUM_CLASSES], size=(500, 500))
    data.crowd = rng.uniform(size=len(objects)) < 0.1
    data.areas = data.areas * rng.uniform(0.5, 1, len(objects))
    return data, as_results(data, results)


def as_results(data, results):
    return [
        {
            "image_id": data.image_ids[i],
            "category_id": data.category_ids[k],
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "score": float(score),
        }
        for i, k, box, score in results
    ]


def as_coco(data):
    boxes = np.concatenate([data.boxes[:, :2], data.boxes[:, 2:] - data.boxes[:, :2]], axis=1)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "width": 500, "height": 500} for i in data.image_ids],
        "categories": [{"id": k, "name": str(k)} for k in data.category_ids],
        "annotations": [
            {
                "id": n + 1,
                "image_id": data.image_ids[data.image[n]],
                "category_id": data.category_ids[data.classes[n]],
                "bbox": boxes[n].tolist(),
                "area": float(data.areas[n]),
                "iscrowd": int(data.crowd[n]),
            }
            for n in range(len(data.image))
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


@pytest.mark.parametrize("eval_class", [None, COCOeval])
@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_coco(truth, eval_class, seed, capsys):
    data, results = random_data(truth, seed)
    expected = evaluate_on_coco(as_coco(data), results, "bbox", eval_class=eval_class)
    detections = as_detections(results, data)
    curves = Curves(data, detections, match(data, detections))
    found = {name: x[0] for name, x in summaries(curves.average_precisions()).items()}
    # APs is there, or COCO says -1.
    assert list(found.values()) == pytest.approx(100 * expected.stats[:6], abs=1e-9)
    table = expected.eval["precision"][..., -1]  # T, R, K, A
    ours = curves.average_precisions()[0]
    for a in range(len(AREAS)):
        theirs = table[:, :, :, a].mean(axis=1).T
        assert np.nan_to_num(ours[:, a], nan=-1.0) == pytest.approx(theirs, abs=1e-12)
    for k in range(NUM_CLASSES):
        assert curves[k, 0, 3].at_recalls() == pytest.approx(table[3, :, k, 0], abs=1e-12)


def test_only_the_best_100_of_a_class_in_an_image_count(truth, found):
    data = truth([(0, 0, [0, 0, 10, 10])])
    wrong = [(0, 0, [50, 50, 60, 60], 0.9 - n / 1000) for n in range(100)]
    detections = found([*wrong, (0, 0, [0, 0, 10, 10], 0.1)])
    matches = match(data, detections)
    assert matches.kept.sum() == 100 and not matches.kept[100]
    assert (matches.object == -1).all()


def test_weights_are_repeated_images(truth):
    data, results = random_data(truth, 5)
    detections = as_detections(results, data)
    detections.scores += np.random.default_rng(0).uniform(0, 0.01, len(detections))
    matches = match(data, detections)
    right, counts = matches.simple()
    own = counts & (detections.classes == 0)
    objects = data.image[matches.counted[0] & (data.classes == 0)]
    columns = detections.image[own], detections.scores[own], right[own] >= 0
    drawn = np.random.default_rng(1).integers(NUM_IMAGES, size=NUM_IMAGES)
    times = np.bincount(drawn, minlength=NUM_IMAGES).astype(np.int32)

    def repeat(images, *others):
        return [np.repeat(x, times[images]) for x in (images, *others)]

    once = np.ones((NUM_IMAGES, 1), np.int32)
    repeated = make_curve(*repeat(*columns), *repeat(objects))
    expected = average_precision(repeated, once)
    assert average_precision(make_curve(*columns, objects), times[:, None]) == pytest.approx(
        expected, abs=1e-12
    )
    assert 0 < expected[0] < 1


def test_the_bootstrap_surrounds_the_figure_and_repeats(truth):
    data, results = random_data(truth, 2)
    detections = as_detections(results, data)
    curves = Curves(data, detections, match(data, detections))
    draws = [summaries(bootstrap(curves, 130, seed))["AP"] for seed in (0, 0, 1)]
    assert len(draws[0]) == 130 and (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()
    low, high = np.percentile(draws[0], [2.5, 97.5])
    assert low < summaries(curves.average_precisions())["AP"][0] < high
    assert pd.Series(draws[0]).std() > 0.5


def test_without_objects_there_is_no_average_precision(truth, found):
    data = truth([(0, 0, [0, 0, 10, 10])])
    detections = found([(0, 1, [0, 0, 10, 10], 0.9)])
    values = Curves(data, detections, match(data, detections)).average_precisions()[0]
    assert (values[0, 0] == 0).all() and np.isnan(values[1]).all()
    empty = found([])
    curves = Curves(data, empty, match(data, empty))
    assert summaries(curves.average_precisions())["AP"] == 0


def test_a_class_may_be_called_all(truth, found):
    box = [0, 0, 10, 10]
    data = truth([(0, 0, box), (0, 1, box), (0, 1, box)], classes=("all", "b"), crowd=[2])
    run = Run(found([(0, 0, box, 0.9)]), [], None, None)
    table = precision_table(analyse("model", data, run, resamples=1))
    assert table["class"].tolist() == ["all", "all", "b"]
    assert table["objects"].tolist() == [2, 1, 1]
    assert table["AP"].tolist() == pytest.approx([50, 100, 0])

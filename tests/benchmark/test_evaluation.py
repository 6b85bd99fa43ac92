import argparse

import numpy as np
import pytest

from sparsercnn.benchmark import evaluation


def test_implementations_agree_and_have_a_row_each():
    pytest.importorskip("faster_coco_eval")
    parser = argparse.ArgumentParser()
    evaluation.add_arguments(parser)
    args = parser.parse_args(["--images", "6", "--detections", "10", "20", "--classes", "3"])
    report = evaluation.run(args)
    rows = [[x.strip() for x in line.split("|")[1:-1]] for line in report.splitlines()]
    rows = [row for row in rows if row and row[0].isdigit()]
    names = ["pycocotools", "faster_coco_eval"]
    assert [row[:2] for row in rows] == [[n, name] for n in ("10", "20") for name in names]
    assert all(0 < float(row[4]) < 100 and float(row[5]) < 1e-9 for row in rows)


def test_half_of_the_detections_are_near_an_object():
    ground_truth = evaluation.make_ground_truth(20, 3)
    detections = evaluation.make_detections(ground_truth, 30)
    assert len(detections) == 600 and {x["image_id"] for x in detections} == set(range(1, 21))
    distances = []
    for x in detections:
        boxes = np.array([y["bbox"] for y in ground_truth.imgToAnns[x["image_id"]]])
        distances.append((np.abs(boxes - x["bbox"]) / boxes).max(axis=1).min())
    assert 0.4 < np.mean(np.array(distances) <= 0.2 + 1e-9) < 0.6

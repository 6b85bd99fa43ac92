"""AP50, MR and JI: cases worked by hand, and the matching against pycocotools and brute force.

Boxes of width 12 that are s apart have IoU (12 - s) / (12 + s): 5/7 for 2, 3/5 for 3, 1/2 for 4.
"""

import itertools
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparsercnn.evaluation import crowdhuman_metrics, match_image

SIZE = (100, 200)  # height, width


def _boxes(*left, width=12, top=0):
    """Of height 12."""
    return np.array([[x, top, x + width, top + 12] for x in left], dtype=float).reshape(-1, 4)


def _match(detections, persons=(), ignored=(), ignored_width=12):
    """`detections` are (left, score); the others are left edges."""
    boxes, scores = zip(*detections, strict=True) if detections else ((), ())
    regions = _boxes(*ignored, width=ignored_width)
    scores = np.array(scores, dtype=float)
    return match_image(_boxes(*boxes), scores, _boxes(*persons), regions, SIZE)


def _metrics(*matches):
    return crowdhuman_metrics(matches)


def test_average_precision_by_hand():
    match = _match([(0, 0.9), (90, 0.8), (51, 0.7)], persons=[0, 50])
    assert match.right.tolist() == [True, False, True]
    # Recall 1/2, 1/2, 1 with precision 1, 1/2, 2/3: level to the first point, then trapezoids.
    assert _metrics(match)["AP50"] == pytest.approx(100 * (1 / 2 + (1 / 2 + 2 / 3) / 4))


def test_detections_of_all_images_are_ranked_together():
    first = _match([(90, 0.8)], persons=[0])
    second = _match([(0, 0.9), (50, 0.7)], persons=[0, 50])
    # As above, with a third person who is not found.
    assert _metrics(first, second)["AP50"] == pytest.approx(100 * (1 / 3 + (1 / 2 + 2 / 3) / 6))


def test_all_detections_of_an_image_count():
    wrong = [(100, 0.9)] * 399
    match = _match([*wrong, (0, 0.1)], persons=[0])
    assert match.right.tolist() == [False] * 399 + [True]
    # One trapezoid, from precision 0 at recall 0 to precision 1/400 at recall 1.
    assert _metrics(match)["AP50"] == pytest.approx(100 / 800)
    assert _metrics(match)["MR"] == pytest.approx(100)  # 399 false positives come first
    assert _metrics(match)["JI"] == pytest.approx(100 / 400)  # above 0, where all 400 are


def test_miss_rate_by_hand():
    # 10 images, so that each wrong detection adds 0.1 false positives per image.
    ranking = "RWRWWWRWWWWW"
    place = {0: 0, 2: 20, 6: 40}  # of the right ones; the fourth person is not found
    detections = [(place.get(i, 100), 0.9 - 0.05 * i) for i in range(len(ranking))]
    match = _match(detections, persons=[0, 20, 40, 60])
    assert match.right.tolist() == [letter == "R" for letter in ranking]
    empty = [_match([]) for _ in range(9)]
    # 0.1 or more is reached by the first wrong one, with 3/4 missed, which holds for 0.01, 0.0178,
    # 0.0316, 0.0562 and 0.1; 0.1778 by the second and 0.3162 by the fourth, with 1/2; 0.5623 by
    # the sixth, with 1/4; and 1 not at all: the curve ends with 1/4.
    expected = (0.75**5 * 0.5**2 * 0.25**2) ** (1 / 9)
    assert _metrics(match, *empty)["MR"] == pytest.approx(100 * expected)


def test_extremes():
    perfect = _metrics(_match([(0, 0.9), (50, 0.8)], persons=[0, 50]))
    assert perfect == pytest.approx({"AP50": 100, "MR": 0, "JI": 100}, abs=1e-6)
    nothing_found = {"AP50": 0, "MR": 100, "JI": 0}
    assert _metrics(_match([], persons=[0])) == pytest.approx(nothing_found)
    assert _metrics(_match([(90, 0.9)], persons=[0])) == pytest.approx(nothing_found)
    for detections in ([], [(0, 0.9)]):  # no person in the whole data set, or just regions
        assert all(math.isnan(x) for x in _metrics(_match(detections, ignored=[0])).values())


def test_an_iou_of_one_half_is_no_match():
    assert _match([(4, 0.9)], persons=[0]).right.tolist() == [False]
    assert _match([(3, 0.9)], persons=[0]).right.tolist() == [True]


def test_the_best_score_chooses_first_and_takes_the_greatest_overlap():
    # The first could have either; the second, just the person at 10.
    match = _match([(8, 0.8), (12, 0.9)], persons=[10, 15])
    assert match.scores.tolist() == [0.9, 0.8] and match.right.tolist() == [True, False]
    # For JI they are matched anew, and both persons are found.
    assert match.jaccard[0] == 1


def test_a_person_is_found_once():
    match = _match([(0, 0.9), (1, 0.8)], persons=[0])
    assert match.right.tolist() == [True, False]
    assert match.jaccard[0] == 1 / 2


def test_detections_inside_of_an_ignored_region_do_not_count():
    # 30 to 60; half of the box at 24 is inside, which is not enough, and 7/12 of that at 25.
    detections = [(0, 0.9), (24, 0.8), (25, 0.7), (40, 0.6), (41, 0.5)]
    match = _match(detections, persons=[0], ignored=[30], ignored_width=30)
    assert match.scores.tolist() == [0.9, 0.8] and match.right.tolist() == [True, False]
    assert match.num_persons == 1
    assert match.jaccard[0] == 1 / 2


def test_a_person_inside_of_an_ignored_region():
    # Found, they count, and a second detection of theirs is in the region.
    match = _match([(40, 0.9), (41, 0.8)], persons=[40], ignored=[30], ignored_width=30)
    assert match.right.tolist() == [True] and match.jaccard[0] == 1
    # Not found, they are a miss for AP and MR, but do not count for JI.
    match = _match([(0, 0.9)], persons=[0, 40], ignored=[30], ignored_width=30)
    assert _metrics(match)["AP50"] == pytest.approx(50)
    assert match.jaccard[0] == 1


def test_of_equally_many_matches_ji_takes_those_with_most_iou():
    # The detection at 1 fits better than that at 3, which, not matched, is inside of the region.
    match = _match([(3, 0.9), (1, 0.8)], persons=[0], ignored=[5], ignored_width=30)
    assert match.jaccard[0] == 1


def test_ji_takes_the_best_threshold_for_all_images():
    first = _match([(0, 0.95), (90, 0.35)], persons=[0])  # 1/2 up to 0.3, then 1
    second = _match([(0, 0.5)], persons=[0])  # 1 up to 0.4, for more than 0.5 is asked, then 0
    assert first.jaccard.tolist() == [0.5] * 4 + [1] * 6
    assert second.jaccard.tolist() == [1] * 5 + [0] * 5
    assert _metrics(first, second)["JI"] == pytest.approx(100)  # above 0.4
    third = _match([(0, 0.35), (50, 0.35)], persons=[0, 50])
    # Above 0.3 and below: (1/2 + 1 + 1) / 3; above 0.4: (1 + 1 + 0) / 3.
    assert _metrics(first, second, third)["JI"] == pytest.approx(100 * 2.5 / 3)


def test_images_without_anything_count_for_mr_alone():
    match = _match([(90, 0.9), (0, 0.8)], persons=[0])
    alone, among_others = _metrics(match), _metrics(match, *[_match([], ignored=[0])] * 999)
    assert among_others["AP50"] == alone["AP50"] and among_others["JI"] == alone["JI"]
    assert alone["MR"] == pytest.approx(100)  # 1 false positive per image before the person
    # 0.001 per image, less than any point: the curve's end, with nobody missed.
    assert among_others["MR"] == pytest.approx(0, abs=1e-6)


def test_boxes_are_clipped_to_the_image():
    persons = np.array([[-12.0, 0, 12, 12]])  # half of the body is outside
    nowhere = np.zeros((0, 4))
    match = match_image(_boxes(0), np.array([0.9]), persons, nowhere, SIZE)
    assert match.right.tolist() == [True]


def test_a_degenerate_detection_is_wrong():
    boxes = np.array([[5.0, 5, 5, 9], [300, 0, 310, 10]])  # without width; wholly outside
    match = match_image(boxes, np.array([0.9, 0.8]), _boxes(0), _boxes(0, width=200), SIZE)
    assert match.right.tolist() == [False, False]


class RandomImage:
    """Persons in a row, some to be ignored, and detections around them and elsewhere."""

    def __init__(self, random, num_persons, num_ignored, num_detections, noise=3):
        self.persons, self.ignored = self._boxes(random, num_persons), self._boxes(random, 0)
        if num_ignored:
            self.ignored = self._boxes(random, num_ignored)
        known = np.concatenate([self.persons, self.ignored])
        around = known[random.integers(0, len(known), num_detections)]
        around = around + random.normal(0, noise, (num_detections, 4))
        elsewhere = self._boxes(random, num_detections)
        is_around = random.random((num_detections, 1)) < 0.7
        boxes = np.where(is_around, around, elsewhere)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        self.boxes = np.clip(boxes, 0, [200, 100] * 2)
        self.scores = random.random(num_detections)

    def _boxes(self, random, number):
        corner = random.uniform(0, [160, 60], (number, 2))
        return np.concatenate([corner, corner + random.uniform(15, 40, (number, 2))], axis=1)

    def match(self):
        return match_image(self.boxes, self.scores, self.persons, self.ignored, SIZE)


def _coco(images):
    """pycocotools' evaluation at IoU 0.5 of up to 500 detections."""

    def xywh(box):
        return [*map(float, box[:2]), *map(float, box[2:] - box[:2])]

    ground_truth, results = COCO(), []
    annotations = []
    for i, image in enumerate(images):
        for is_crowd, boxes in enumerate((image.persons, image.ignored)):
            for box in map(xywh, boxes):
                entry = {"image_id": i, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
                annotations.append({"id": len(annotations) + 1, "iscrowd": is_crowd, **entry})
        for box, score in zip(map(xywh, image.boxes), image.scores, strict=True):
            results.append({"image_id": i, "category_id": 1, "bbox": box, "score": float(score)})
    ground_truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(len(images))],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    ground_truth.createIndex()
    coco_eval = COCOeval(ground_truth, ground_truth.loadRes(results), "bbox")
    coco_eval.params.iouThrs = np.array([0.5])
    coco_eval.params.maxDets = [500]
    coco_eval.params.areaRng, coco_eval.params.areaRngLbl = [[0, 1e10]], ["all"]
    coco_eval.evaluate()
    coco_eval.accumulate()
    return coco_eval


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_those_of_pycocotools_for_crowds_too(seed):
    random = np.random.default_rng(seed)
    images = [RandomImage(random, 1 + i % 5, i % 3, 150 * (i % 2) + 10) for i in range(8)]
    num_right = 0
    for image, expected in zip(images, _coco(images).evalImgs, strict=True):
        match = image.match()
        counts = ~expected["dtIgnore"][0].astype(bool)
        np.testing.assert_array_equal(match.scores, np.array(expected["dtScores"])[counts])
        np.testing.assert_array_equal(match.right, expected["dtMatches"][0][counts] > 0)
        num_right += match.right.sum()
    assert num_right > 10


@pytest.mark.parametrize("seed", range(5))
def test_ap_is_close_to_that_of_pycocotools_without_ignored_regions(seed):
    """Both integrate one curve. COCO samples it at 101 recalls, which moves the area by 1/100 at
    most, hence the tolerance of 1 percent point. It also replaces precision by the highest at no
    less recall, which adds little where, as here and in real detectors, right detections score
    higher.
    """
    random = np.random.default_rng(seed)
    images = [RandomImage(random, 8, 0, 30, noise=2) for _ in range(60)]
    for image in images:
        image.scores = -np.sort(-random.beta(2, 5, 30))  # best first, as in the match
        image.scores[image.match().right] **= 0.3
    ours = _metrics(*[image.match() for image in images])["AP50"]
    theirs = 100 * _coco(images).eval["precision"].mean()
    assert 85 < ours < 98
    assert ours == pytest.approx(theirs, abs=1)


@pytest.mark.parametrize("seed", range(30))
def test_ji_is_that_of_trying_all_matchings(seed):
    random = np.random.default_rng(seed)
    image = RandomImage(random, 3, seed % 3, 5, noise=6)
    jaccard = image.match().jaccard
    for threshold, value in zip(np.arange(10) / 10, jaccard, strict=True):
        expected = _jaccard_by_trying(image, image.scores > threshold)
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def _jaccard_by_trying(image, kept):
    boxes, persons, ignored = image.boxes[kept], image.persons, image.ignored
    best, num_detections, num_persons = (0, 0.0), 0, 0
    # A detection for each person, or None.
    choices = [*range(len(boxes)), *[None] * len(persons)]
    for chosen in set(itertools.permutations(choices, len(persons))):
        pairs = [(d, p) for p, d in enumerate(chosen) if d is not None]
        ious = [_intersection(boxes[d], persons[p], of_union=True) for d, p in pairs]
        if any(iou <= 0.5 for iou in ious) or (len(pairs), sum(ious)) < best:
            continue
        best = len(pairs), sum(ious)
        matched, found = {d for d, _ in pairs}, {p for _, p in pairs}
        num_detections = sum(
            d in matched or not _inside(box, ignored) for d, box in enumerate(boxes)
        )
        num_persons = sum(p in found or not _inside(box, ignored) for p, box in enumerate(persons))
    union = num_detections + num_persons - best[0]
    return best[0] / union if union else float("nan")


def _inside(box, regions):
    return any(_intersection(box, region, of_union=False) > 0.5 for region in regions)


def _intersection(box, other, of_union):
    """Over the union, or over the first box."""
    size = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    area, other_area = np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2])
    intersection = np.prod(np.maximum(size, 0))
    return intersection / (area + other_area - intersection if of_union else area)

from itertools import permutations

import pytest
import torch
from torchvision.ops import generalized_box_iou

from sparsercnn.modeling import HungarianMatcher, MatchingCost
from sparsercnn.modeling.classification import focal_cost, softmax_cost
from sparsercnn.modeling.matching.costs import giou_cost, l1_cost


def random_boxes(*shape, size=100):
    corner = torch.rand(*shape, 2) * size * 0.7
    return torch.cat([corner, corner + 1 + torch.rand(*shape, 2) * size * 0.3], dim=-1)


@pytest.mark.parametrize("num_proposals,num_objects", [(5, 3), (4, 4), (3, 5), (1, 2), (2, 0)])
def test_matches_brute_force(make_targets, num_proposals, num_objects):
    matcher = HungarianMatcher()
    objects = random_boxes(num_objects)
    targets = make_targets(
        ((100, 100), objects.tolist(), torch.randint(4, (num_objects,)).tolist()),
        ((100, 100), random_boxes(6).tolist(), [0] * 6),  # makes padding for the first
    )
    logits, boxes = torch.randn(2, 2, num_proposals, 4), random_boxes(2, 2, num_proposals)
    assignment = matcher(logits, boxes, targets)
    cost = matcher.matching_cost(logits, boxes, targets)
    for stage in range(2):
        proposals, matched = assignment.pairs(stage)[0]
        assert len(proposals) == min(num_proposals, num_objects)
        assert len(set(matched.tolist())) == len(matched)
        table = cost[stage, 0, :, :num_objects]
        if num_proposals < num_objects:
            best = min(
                sum(table[i, j].item() for i, j in enumerate(order))
                for order in permutations(range(num_objects), num_proposals)
            )
        else:
            best = min(
                sum(table[i, j].item() for j, i in enumerate(order))
                for order in permutations(range(num_proposals), num_objects)
            )
        assert table[proposals, matched].sum().item() == pytest.approx(best, abs=1e-4)


def test_each_cost_worked_by_hand(make_targets):
    # Logit 0 is score 1/2: the positive part is 1/4 * 1/4 * log 2, the negative 3/4 * 1/4 * log 2.
    cost = focal_cost(torch.zeros(1, 1, 1, 3), torch.tensor([[2]]))
    assert cost.item() == pytest.approx((1 / 16 - 3 / 16) * 0.693147, abs=1e-6)
    cost = softmax_cost(torch.zeros(1, 1, 1, 4), torch.tensor([[1]]))
    assert cost.item() == pytest.approx(-0.25)
    # In an image of 100 x 50: |10 - 0|/100 + |0 - 5|/50 + |30 - 20|/100 + |50 - 45|/50 = 0.4
    sizes = torch.tensor([[100.0, 50, 100, 50]])
    box, target = torch.tensor([[[[10.0, 0, 30, 50]]]]), torch.tensor([[[0.0, 5, 20, 45]]])
    assert l1_cost(box, target, sizes).item() == pytest.approx(0.4)
    # Unit squares a unit apart: IoU 0, hull of area 3, a third of it empty.
    box, target = torch.tensor([[[[0.0, 0, 1, 1]]]]), torch.tensor([[[2.0, 0, 3, 1]]])
    assert giou_cost(box, target).item() == pytest.approx(1 / 3)


def test_costs_are_those_of_each_image_alone(make_targets):
    logits, boxes = torch.randn(3, 2, 7, 4), random_boxes(3, 2, 7)
    images = [
        ((100, 120), random_boxes(2).tolist(), [1, 3]),
        ((90, 100), random_boxes(5).tolist(), [0, 1, 2, 3, 0]),
    ]
    cost = MatchingCost()
    together = cost(logits, boxes, make_targets(*images))
    for b, image in enumerate(images):
        alone = cost(logits[:, b : b + 1], boxes[:, b : b + 1], make_targets(image))
        torch.testing.assert_close(together[:, b : b + 1, :, : len(image[1])], alone)
    giou = generalized_box_iou(boxes[2, 1], torch.tensor(images[1][1]))
    torch.testing.assert_close(giou_cost(boxes, make_targets(*images).boxes)[2, 1], -giou)


def test_padding_is_never_matched(make_targets):
    targets = make_targets(
        ((100, 100), [[0, 0, 9, 9]], [0]), ((50, 50), [[0, 0, 5, 5]] * 4, [1] * 4)
    )
    assignment = HungarianMatcher()(torch.randn(2, 2, 8, 4), random_boxes(2, 2, 8), targets)
    assert (assignment.target_index[:, 0] <= 0).all()
    assert assignment.positive.sum(2).tolist() == [[1, 4], [1, 4]]
    assert assignment.normalizer.tolist() == [5, 5]
    assert assignment.capacity == [5, 5]


def test_the_host_knows_the_number_of_positives(make_targets):
    few = ((50, 50), random_boxes(2).tolist(), [0, 1])
    many = ((50, 50), random_boxes(9).tolist(), [0] * 9)
    targets = make_targets(few, many)
    assignment = HungarianMatcher()(torch.randn(3, 2, 4, 2), random_boxes(3, 2, 4), targets)
    assert assignment.capacity == assignment.num_positives.tolist() == [2 + 4] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_predictions_do_not_stop_the_matching(make_targets, value):
    targets = make_targets(((100, 100), [[0, 0, 50, 50], [40, 40, 90, 90]], [0, 1]))
    boxes = torch.tensor([[[[value] * 4, [0, 0, 50, 50.0], [40, 40, 90, 90.0]]]])
    assignment = HungarianMatcher()(torch.zeros(1, 1, 3, 4), boxes, targets)
    assert assignment.target_index.tolist() == [[[-1, 0, 1]]]

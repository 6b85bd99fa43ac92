import math

import pytest
import torch

from sparsercnn.modeling import (
    HungarianMatcher,
    LossWeights,
    MatchingCost,
    SetCriterion,
    SoftmaxClassification,
)


@pytest.fixture
def case(make_targets):
    """Two proposals and one object in an image of 100 x 50; the second proposal is its match."""
    targets = make_targets(((50, 100), [[0, 0, 40, 40]], [1]))
    logits = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]]]])
    boxes = torch.tensor([[[[60.0, 0, 100, 50], [0, 0, 40, 20]]]])
    return logits, boxes, targets


def test_losses_worked_by_hand(case):
    weights = LossWeights(classification=2.0, l1=5.0, giou=2.0)
    losses = SetCriterion(matcher=HungarianMatcher(), weights=weights)(*case)
    # All scores are 1/2: one positive at 1/4 * 1/4 * log 2, three negatives at 3/4 * 1/4 * log 2.
    focal = (0.25 + 3 * 0.75) * 0.25 * math.log(2)
    assert losses["loss_ce"].item() == pytest.approx(2 * focal, rel=1e-5)
    # One corner is 20 pixels of 50 too high.
    assert losses["loss_bbox"].item() == pytest.approx(5 * 20 / 50, rel=1e-5)
    # The box is the upper half of the object, which is the hull of both: GIoU = IoU = 1/2.
    assert losses["loss_giou"].item() == pytest.approx(2 * 0.5, rel=1e-5)


def test_softmax_loss_worked_by_hand(case):
    logits, boxes, targets = case
    softmax = SoftmaxClassification(no_object_weight=0.1)
    criterion = SetCriterion(
        matcher=HungarianMatcher(matching_cost=MatchingCost(softmax)), classification=softmax
    )
    logits = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, math.log(2), 0.0]]]])
    losses = criterion(logits, boxes, targets)
    # Background: -log 1/3 with weight 0.1; the object: -log 2/4 with weight 1; their mean.
    expected = (0.1 * math.log(3) + math.log(2)) / 1.1
    assert losses["loss_ce"].item() == pytest.approx(2 * expected, rel=1e-5)


def test_stages_are_named_and_independent(case):
    logits, boxes, targets = case
    criterion = SetCriterion(matcher=HungarianMatcher())
    other = boxes + torch.tensor([0.0, 0, 10, 10])
    losses = criterion(torch.cat([logits + 1, logits]), torch.cat([other, boxes]), targets)
    assert set(losses) == {
        f"loss_{kind}{stage}" for kind in ("ce", "bbox", "giou") for stage in ("", "_0")
    }
    for name, value in criterion(logits, boxes, targets).items():
        torch.testing.assert_close(losses[name], value)
    for name, value in criterion(logits + 1, other, targets).items():
        torch.testing.assert_close(losses[f"{name}_0"], value)


def test_no_objects_leave_classification_alone(make_targets):
    boxes = torch.tensor([[[[0.0, 0, 10, 10]]]], requires_grad=True)
    targets = make_targets(((50, 50), [], []))
    losses = SetCriterion(matcher=HungarianMatcher())(torch.zeros(1, 1, 1, 3), boxes, targets)
    assert losses["loss_bbox"] == 0 and losses["loss_giou"] == 0
    # Divided by one object at least: three negatives at score 1/2.
    assert losses["loss_ce"].item() == pytest.approx(2 * 3 * 0.1875 * math.log(2), rel=1e-5)
    sum(losses.values()).backward()
    assert boxes.grad.eq(0).all()


def test_losses_are_per_object(case, make_targets):
    """A batch that holds an image twice has the losses of the image once."""
    logits, boxes, targets = case
    twice = make_targets(*[((50, 100), [[0, 0, 40, 40]], [1])] * 2)
    criterion = SetCriterion(matcher=HungarianMatcher())
    once = criterion(logits, boxes, targets)
    doubled = criterion(logits.repeat(1, 2, 1, 1), boxes.repeat(1, 2, 1, 1), twice)
    for name in once:
        torch.testing.assert_close(doubled[name], once[name])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("proposal", [0, 1])
def test_a_non_finite_box_shows_in_the_loss_of_its_stage(case, proposal, value):
    logits, boxes, targets = case
    logits, boxes = logits.repeat(3, 1, 1, 1), boxes.repeat(3, 1, 1, 1)
    boxes[1, 0, proposal, 2] = value
    losses = SetCriterion(matcher=HungarianMatcher())(logits, boxes, targets)
    assert not losses["loss_bbox_1"].isfinite()
    assert losses["loss_bbox_0"].isfinite() and losses["loss_bbox"].isfinite()


def test_background_boxes_may_be_huge(case):
    """The area of an unmatched box overflows; that is nobody's loss."""
    logits, boxes, targets = case
    boxes[0, 0, 0] = torch.tensor([-1e25, -1e25, 1e25, 1e25])
    boxes.requires_grad_()
    losses = SetCriterion(matcher=HungarianMatcher())(logits, boxes, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert boxes.grad.isfinite().all()


def test_an_object_without_area_does_not_spoil_others(make_targets):
    """Background has the first object of its image as its own target."""
    targets = make_targets(((50, 100), [[10, 10, 10, 40], [20, 20, 60, 40]], [0, 1]))
    boxes = torch.tensor([[[[60.0, 0, 100, 50], [20, 20, 60, 40], [9, 9, 12, 42]]]])
    logits = torch.tensor([[[[0.0, 0], [0, 9], [9, 0]]]], requires_grad=True)
    boxes.requires_grad_()
    losses = SetCriterion(matcher=HungarianMatcher())(logits, boxes, targets)
    sum(losses.values()).backward()
    assert losses["loss_giou"].isfinite() and boxes.grad.isfinite().all()
    assert not boxes.grad[0, 0, 0].any()


def test_half_precision_is_computed_in_float32(case):
    logits, boxes, targets = case
    criterion = SetCriterion(matcher=HungarianMatcher())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion(logits.bfloat16(), boxes, targets)
    for name, value in criterion(logits, boxes, targets).items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], value)

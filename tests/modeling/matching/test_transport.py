import numpy as np
import ot
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from fvcore.nn import sigmoid_focal_loss
from scipy.optimize import linear_sum_assignment
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import generalized_box_iou

from sparsercnn.modeling import (
    FocalClassification,
    LossWeights,
    MatchingCost,
    OptimalTransportMatcher,
    SetCriterion,
    SoftmaxClassification,
    build_matcher,
)
from sparsercnn.modeling.matching.sinkhorn import marginal_error, sinkhorn
from sparsercnn.structures import Targets

SIZE = 100
CLASSES = 5


def random_boxes(*shape):
    corner = torch.rand(*shape, 2) * SIZE * 0.7
    return torch.cat([corner, corner + 2 + torch.rand(*shape, 2) * SIZE * 0.3], dim=-1)


def random_targets(*counts):
    instances = []
    for count in counts:
        instances.append(Instances((SIZE, SIZE)))
        instances[-1].gt_boxes = Boxes(random_boxes(count))
        instances[-1].gt_classes = torch.randint(CLASSES, (count,))
    return Targets.from_instances(instances, "cpu")


def random_predictions(targets, num_stages, num_proposals, skill=0.0):
    """With `skill` 1, proposals surround objects and know their classes."""
    B, M = targets.classes.shape
    index = torch.randint(M, (num_stages, B, num_proposals))
    image = torch.arange(B)[None, :, None]
    corners = targets.boxes[image, index] + 5 * torch.randn(num_stages, B, num_proposals, 4)
    near = torch.cat([torch.minimum(corners[..., :2], corners[..., 2:]),
                      torch.maximum(corners[..., :2], corners[..., 2:])], dim=-1)  # fmt: skip
    boxes = skill * near + (1 - skill) * random_boxes(num_stages, B, num_proposals)
    logits = torch.randn(num_stages, B, num_proposals, CLASSES) - 3
    known = targets.classes[image, index][..., None]
    return logits.scatter_add(-1, known, 5 * skill * torch.rand_like(logits[..., :1])), boxes


# The solver.


def degenerate_problems():
    """Costs (R, N), the last row the background, and the objects' supplies."""
    generator = torch.Generator().manual_seed(3)

    def rand(*shape):
        return 5 * torch.rand(*shape, generator=generator)

    zeros = torch.zeros
    return {
        "all costs equal": (torch.ones(6, 40), [2.0] * 5),
        "one object, one proposal": (rand(2, 1), [1.0]),
        "one object takes all": (rand(2, 12), [12.0]),
        "identical objects": (torch.cat([rand(1, 60).expand(9, -1), zeros(1, 60)]), [2.0] * 9),
        "identical proposals": (rand(10, 1).repeat(1, 50) + 1, [3.0] * 9),
        "no background left": (rand(13, 24), [2.0] * 12),
        "almost no background": (rand(13, 24), [1.0] + [2.0] * 11),
        "fractional": (rand(8, 30), [1.5, 2.5, 0.25, 3.5, 1.5, 2.0, 1.0]),
        "two far groups": (torch.block_diag(rand(5, 20), rand(5, 20)) + zeros(10, 40), [3.0] * 9),
        "costs 0 or 5": (5 * torch.randint(2, (13, 60), generator=generator).float(), [3.0] * 12),
        "costs up to 600": (120 * rand(13, 60), [3.0] * 12),
        "a proposal forbidden": (torch.where(torch.arange(20) == 3, 1e3, rand(7, 20)), [2.0] * 6),
    }


def random_problems():
    problems = {}
    for skill in (0.0, 1.0):
        for count, num_proposals, k in ((10, 100, 1.5), (30, 100, 3.0), (100, 300, 2.5)):
            torch.manual_seed(count)
            targets = random_targets(count)
            matcher = OptimalTransportMatcher()
            cost = matcher.cost(*random_predictions(targets, 1, num_proposals, skill), targets)
            # The background's cost, so that a percent of the total is one of what is minimised.
            name = f"skill {skill}, {count} objects, {num_proposals} proposals"
            problems[name] = (cost[0, 0] + 0.02, [k] * count)
    torch.manual_seed(0)
    problems["uniform costs"] = (10 * torch.rand(41, 100), [2.0] * 40)
    return problems


@pytest.mark.parametrize(
    "name,problem", [*random_problems().items(), *degenerate_problems().items()]
)
def test_plan_is_as_good_as_exact_optimal_transport(name, problem):
    cost, units = problem
    supply = torch.tensor([*units, cost.shape[1] - sum(units)])
    plan = sinkhorn(cost, supply, 0.005, 30)
    assert (plan >= 0).all()
    assert marginal_error(plan, supply) < 1e-3
    assert (plan.sum(0) - 1).abs().max() < 1e-3
    some = supply > 0
    exact = ot.emd2(
        supply[some].double().numpy(), np.ones(cost.shape[1]), cost[some].double().numpy()
    )
    assert (plan * cost).sum().item() == pytest.approx(exact, rel=0.01, abs=0.01)


def test_plan_is_the_fixed_point_of_sinkhorn_knopp():
    """Sinkhorn-Knopp in the log domain, as written in the books, in double precision."""
    epsilon, cost = 0.1, 4 * torch.rand(6, 25)
    supply = torch.tensor([1.0, 2.5, 0.5, 3.0, 1.0, 17.0])
    f, g, table = torch.zeros(6).double(), torch.zeros(25).double(), cost.double()
    for _ in range(3000):
        f = epsilon * (supply.double().log() - torch.logsumexp((g - table) / epsilon, 1))
        g = -epsilon * torch.logsumexp((f[:, None] - table) / epsilon, 0)
    expected = ((f[:, None] + g - table) / epsilon).exp()
    plan = sinkhorn(cost, supply, epsilon, 30)
    torch.testing.assert_close(plan, expected.float(), atol=1e-4, rtol=1e-3)


def test_problems_of_a_batch_do_not_meet():
    cost = 6 * torch.rand(2, 3, 5, 20)
    supply = torch.tensor([1.0, 2.0, 3.0, 0.0, 14.0]).expand(2, 3, -1)
    together = sinkhorn(cost, supply, 0.01, 30)
    assert (together[..., 3, :] == 0).all()
    for s in range(2):
        for b in range(3):
            alone = cost[s, b, [0, 1, 2, 4]]
            plan = sinkhorn(alone, supply[s, b, [0, 1, 2, 4]], 0.01, 30)
            torch.testing.assert_close(together[s, b, [0, 1, 2, 4]], plan, atol=1e-4, rtol=1e-3)


# The matcher.


@pytest.mark.parametrize("classification", [FocalClassification(), SoftmaxClassification()])
def test_cost_is_the_difference_of_the_losses(make_targets, classification):
    targets = make_targets(((SIZE, SIZE), [[10, 10, 40, 60], [50, 20, 90, 30]], [1, 3]))
    logits, boxes = torch.randn(1, 1, 4, CLASSES), random_boxes(1, 1, 4)
    weights = LossWeights(classification=1.5, l1=4, giou=3)
    matcher = OptimalTransportMatcher(matching_cost=MatchingCost(classification, weights))
    cost = matcher.cost(logits, boxes, targets)[0, 0]

    def class_loss(j, label):
        if isinstance(classification, SoftmaxClassification):
            weight = 0.1 if label is None else 1.0
            label = torch.tensor(CLASSES - 1 if label is None else label)
            return weight * torch.nn.functional.cross_entropy(logits[0, 0, j], label)
        one_hot = torch.zeros(CLASSES)
        if label is not None:
            one_hot[label] = 1
        return sigmoid_focal_loss(logits[0, 0, j], one_hot, 0.25, 2.0, "sum")

    assert (cost[2] == 0).all()
    for j in range(4):
        for i, label in enumerate((1, 3)):
            l1 = (boxes[0, 0, j] - targets.boxes[0, i]).abs().sum() / SIZE
            giou = generalized_box_iou(boxes[0, 0, j][None], targets.boxes[0, i][None])[0, 0]
            losses = 1.5 * class_loss(j, label) + 4 * l1 + 3 * (1 - giou)
            torch.testing.assert_close(cost[i, j], losses - 1.5 * class_loss(j, None))


@pytest.mark.parametrize("num_proposals,count", [(100, 30), (300, 90)])
def test_boxes_of_an_untrained_head_are_assigned_all_the_same(num_proposals, count):
    targets = random_targets(count)
    logits, boxes = random_predictions(targets, 6, num_proposals)
    centres = SIZE * torch.rand(6, 1, num_proposals, 2)
    sizes = SIZE * torch.exp(2.5 * torch.randn(6, 1, num_proposals, 2))  # up to 1,000 images wide
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=-1)
    matcher = OptimalTransportMatcher(k=3, step=0)
    cost, supply = matcher.cost(logits, boxes, targets), matcher.supply(boxes, targets)
    plan = sinkhorn(cost, supply, matcher.epsilon, matcher.num_iterations)
    assert marginal_error(plan, supply).max() < 0.01
    positives = matcher(logits, boxes, targets).num_positives
    assert ((positives - 3 * count).abs() <= 0.02 * 3 * count).all()


def test_costs_stay_in_order_beyond_their_saturation(make_targets):
    targets = make_targets(((SIZE, SIZE), [[10, 10, 40, 60]], [1]))
    sides = SIZE * torch.tensor([0.5, 2, 8, 32, 128])
    boxes = torch.stack([0 * sides, 0 * sides, sides, sides], dim=-1)[None, None]
    cost_of_sides = MatchingCost(weights=LossWeights(classification=0, l1=5, giou=0))
    matcher = OptimalTransportMatcher(matching_cost=cost_of_sides)
    cost = matcher.cost(torch.zeros(1, 1, 5, CLASSES), boxes, targets)[0, 0, 0]
    l1 = 5 * (boxes[0, 0] - targets.boxes[0]).abs().sum(-1) / SIZE
    torch.testing.assert_close(cost[:2], l1[:2])
    torch.testing.assert_close(cost[2:4], 20 + 20 * (l1[2:4] / 20).log())
    assert (cost.diff() > 0).all() and cost.max() < 100


def test_supply_worked_by_hand(make_targets):
    targets = make_targets(
        ((SIZE, SIZE), [[0, 0, 9, 9]] * 2, [0, 0]),
        ((SIZE, SIZE), [[0, 0, 9, 9]], [0]),
        ((SIZE, SIZE), [], []),
    )
    boxes = torch.zeros(6, 3, 20, 4)
    supply = OptimalTransportMatcher(k=3, step=0.5).supply(boxes, targets)
    k = [1, 1, 1.5, 2, 2.5, 3]
    assert supply[:, 0].tolist() == [[x, x, 20 - 2 * x] for x in k]
    assert supply[:, 1].tolist() == [[x, 0, 20 - x] for x in k]
    assert supply[:, 2].tolist() == [[0, 0, 20]] * 6
    # With losses on the last stage alone, that is stage 6 of 6.
    last = OptimalTransportMatcher(k=3, step=0.5).supply(boxes[-1:], targets)
    torch.testing.assert_close(last, supply[-1:])
    constant = OptimalTransportMatcher(k=2, step=0.0).supply(boxes, targets)
    assert (constant[:, 0] == torch.tensor([2.0, 2, 16])).all()


def test_supplies_beyond_the_proposals_are_scaled(make_targets):
    targets = make_targets(((SIZE, SIZE), [[0, 0, 9, 9]] * 4, [0] * 4))
    matcher = OptimalTransportMatcher(k=3, step=2.5)
    supply = matcher.supply(torch.zeros(2, 1, 6, 4), targets)
    # 4 x 1 and 4 x 3 units for 6 proposals.
    assert supply[:, 0].tolist() == [[1, 1, 1, 1, 2], [1.5, 1.5, 1.5, 1.5, 0]]


def test_dynamic_k_worked_by_hand(make_targets):
    targets = make_targets(((SIZE, SIZE), [[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0]))
    # IoUs with the first object 1, 0.9, 0.8, 0.7 and 0; with the second 0.4 at most.
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [0, 0, 10, 7], [50, 50, 60, 54]]
    boxes = torch.tensor([[boxes]]).float()
    for q, k in ((1, 1), (2, 1), (3, 2), (4, 3), (8, 3)):
        matcher = OptimalTransportMatcher(dynamic_k=True, top_q=q)
        assert matcher.supply(boxes, targets)[0, 0].tolist() == [k, 1, 4 - k]
    earlier = OptimalTransportMatcher(dynamic_k=True, top_q=4, step=0.5)
    supply = earlier.supply(boxes.repeat(3, 1, 1, 1), targets)
    assert supply[:, 0, 0].tolist() == [2, 2.5, 3]


@pytest.mark.parametrize("skill", [0.0, 1.0])
@pytest.mark.parametrize("count,num_proposals", [(1, 10), (7, 50), (20, 100), (60, 100)])
def test_one_unit_each_costs_what_hungarian_matching_does(skill, count, num_proposals):
    targets = random_targets(count, count // 2)
    logits, boxes = random_predictions(targets, 2, num_proposals, skill)
    matcher = OptimalTransportMatcher(k=1, step=0.0)
    cost = matcher.cost(logits, boxes, targets)
    assignment = matcher(logits, boxes, targets)
    assert assignment.num_positives.tolist() == [count + count // 2] * 2
    background = 2.0 * sigmoid_focal_loss(logits, torch.zeros_like(logits)).sum((2, 3))
    for s in range(2):
        for b, objects in enumerate(targets.counts):
            table = cost[s, b, :objects].numpy()
            best = table[linear_sum_assignment(table)].sum()
            proposals, matched = assignment.pairs(s)[b]
            ours = cost[s, b, matched, proposals].sum()
            assert ours + background[s, b] <= 1.01 * (best + background[s, b])


def test_positives_grow_from_stage_to_stage_with_the_supplies():
    targets = random_targets(4, 6, 2)
    logits, boxes = random_predictions(targets, 1, 60, skill=1.0)
    matcher = OptimalTransportMatcher(k=3, step=0.5)
    assignment = matcher(logits.repeat(6, 1, 1, 1), boxes.repeat(6, 1, 1, 1), targets)
    positives = assignment.normalizer / 12
    # Half a unit counts as a whole one, unless two objects share a proposal.
    assert positives[[0, 1, 3, 5]].tolist() == [1, 1, 2, 3]
    assert 1.5 <= positives[2] <= 2 and 2.5 <= positives[4] <= 3
    assert assignment.normalizer.tolist() == assignment.num_positives.tolist()


@pytest.mark.parametrize("counts", [(5, 0, 1), (0, 0), (30, 2), (1,), (12, 13)])
@pytest.mark.parametrize("dynamic_k", [False, True])
def test_every_object_keeps_a_proposal_and_padding_gets_none(counts, dynamic_k):
    num_proposals = 12
    targets = random_targets(*counts)
    matcher = OptimalTransportMatcher(dynamic_k=dynamic_k)
    assignment = matcher(*random_predictions(targets, 3, num_proposals), targets)
    for s in range(3):
        for b, (_, objects) in enumerate(assignment.pairs(s)):
            assert (objects < counts[b]).all()
            assert len(objects.unique()) == min(counts[b], num_proposals)
            if counts[b] >= num_proposals:
                assert len(objects) == num_proposals


def test_images_and_stages_are_solved_as_if_alone():
    targets = random_targets(3, 9, 0, 1)
    logits, boxes = random_predictions(targets, 3, 30, skill=0.5)
    together = OptimalTransportMatcher(step=1.0)(logits, boxes, targets)
    for s in range(3):
        single = OptimalTransportMatcher(k=1 + s, step=0.0)
        for b, count in enumerate(targets.counts):
            alone = Targets(
                boxes=targets.boxes[b : b + 1, : max(count, 1)],
                classes=targets.classes[b : b + 1, : max(count, 1)],
                valid=targets.valid[b : b + 1, : max(count, 1)],
                image_sizes=targets.image_sizes[b : b + 1],
                counts=[count],
            )
            at = (slice(s, s + 1), slice(b, b + 1))
            expected = single(logits[at], boxes[at], alone).target_index
            assert together.target_index[at].tolist() == expected.tolist()


def test_order_of_proposals_and_objects_does_not_matter():
    targets = random_targets(8)
    logits, boxes = random_predictions(targets, 2, 40, skill=0.5)
    matcher = OptimalTransportMatcher(k=2, step=1.0)
    index = matcher(logits, boxes, targets).target_index
    proposals, objects = torch.randperm(40), torch.randperm(8)
    shuffled = Targets(
        boxes=targets.boxes[:, objects],
        classes=targets.classes[:, objects],
        valid=targets.valid,
        image_sizes=targets.image_sizes,
        counts=targets.counts,
    )
    other = matcher(logits[:, :, proposals], boxes[:, :, proposals], shuffled).target_index
    named = torch.where(other >= 0, objects[other.clamp(min=0)], -1)
    assert named.tolist() == index[:, :, proposals].tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["boxes", "logits", "all boxes"])
def test_non_finite_predictions_neither_spread_nor_stop_anything(value, where):
    targets = random_targets(4, 5)
    logits, boxes = random_predictions(targets, 2, 20, skill=1.0)
    matcher = OptimalTransportMatcher(dynamic_k=True)
    before = matcher(logits, boxes, targets).target_index
    if where == "boxes":
        boxes[0, 0, :3] = value
    elif where == "logits":
        logits[0, 0, :3] = value
    else:
        boxes[0, 0] = value
    after = matcher(logits, boxes, targets).target_index
    assert after[1].tolist() == before[1].tolist()
    assert after[0, 1].tolist() == before[0, 1].tolist()
    assert set(after[0, 0].tolist()) - {-1} == {0, 1, 2, 3}
    if where == "boxes":
        assert (after[0, 0, :3] == -1).all()


class NoSync(TorchDispatchMode):
    """Fails on what would wait for the device or has a shape that depends on values."""

    # lift_fresh: a tensor made from numbers, which are then copied to the device.
    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "lift_fresh")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert not any(name.startswith(x) for x in self.FORBIDDEN), name
        if name in ("index", "index_put", "index_put_"):
            kinds = [x.dtype for x in args[1] if x is not None]
            assert torch.bool not in kinds and torch.uint8 not in kinds, name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dynamic_k", [False, True])
def test_nothing_waits_for_the_device(dynamic_k):
    targets = random_targets(3, 0, 20)
    predictions = random_predictions(targets, 2, 15)
    matcher = OptimalTransportMatcher(dynamic_k=dynamic_k)
    with EventStorage(0), NoSync():  # iteration 0 is none of those that are logged
        matcher(*predictions, targets)
    with NoSync(), pytest.raises(AssertionError, match="nonzero"):
        torch.nonzero(targets.valid)
    with NoSync(), pytest.raises(AssertionError, match="index"):
        targets.boxes[targets.valid]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_nothing_waits_for_a_gpu():
    targets = random_targets(3, 0, 20)
    predictions = random_predictions(targets, 2, 15)
    matcher = OptimalTransportMatcher(dynamic_k=True)
    expected = matcher(*predictions, targets).target_index
    fields = (targets.boxes, targets.classes, targets.valid, targets.image_sizes)
    on_gpu = Targets(*(x.cuda() for x in fields), targets.counts)
    predictions = [x.cuda() for x in predictions]
    matcher(*predictions, on_gpu)  # libraries are initialised
    torch.cuda.set_sync_debug_mode("error")
    try:
        assignment = matcher(*predictions, on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (assignment.target_index.cpu() == expected).float().mean() > 0.98


def test_mixed_precision_leaves_the_assignment_in_float32():
    targets = random_targets(3, 7)
    logits, boxes = random_predictions(targets, 2, 20, skill=0.5)
    # What comes from a head under autocast: logits in bfloat16, boxes in float32.
    logits = logits.bfloat16()
    seen = []

    class Spy(OptimalTransportMatcher):
        def forward(self, *args):
            seen.append(super().forward(*args).target_index)
            return super().forward(*args)

    matcher = Spy()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = SetCriterion(matcher=matcher)(logits, boxes, targets)
    matcher(logits.float(), boxes, targets)
    assert seen[0].tolist() == seen[1].tolist()
    assert all(loss.dtype == torch.float32 for loss in losses.values())


def test_losses_are_per_positive(make_targets):
    """Two proposals exactly on an object halve the loss of one that is off, not double it."""
    targets = make_targets(((50, 100), [[0, 0, 40, 40]], [0]))
    boxes = torch.tensor([[[[0.0, 0, 40, 40], [0, 0, 40, 20], [70, 20, 90, 40], [60, 0, 99, 9]]]])
    logits = torch.full((1, 1, 4, 2), -3.0)
    matcher = OptimalTransportMatcher(k=2)
    weights = LossWeights(l1=1.0, giou=1.0)
    losses = SetCriterion(matcher=matcher, weights=weights)(logits, boxes, targets)
    assert matcher(logits, boxes, targets).normalizer.tolist() == [2]
    assert losses["loss_bbox"].item() == pytest.approx((0 + 20 / 50) / 2)
    assert losses["loss_giou"].item() == pytest.approx((0 + 0.5) / 2)


def test_statistics_are_recorded_when_the_log_is_written():
    targets = random_targets(4, 6)
    predictions = random_predictions(targets, 3, 40, skill=1.0)
    matcher = OptimalTransportMatcher(k=2, step=1.0)
    matcher(*predictions, targets)  # outside a training run
    with EventStorage(0) as storage:
        for iteration in range(45):
            storage.iter = iteration
            matcher(*predictions, targets)
            matcher(*predictions, targets)  # of the same iteration
        assert [x for _, x in storage.history("sinkhorn_error").values()] == [19, 39]
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["positives_per_object_0"] == latest["positives_per_object_1"] == 1
    assert latest["positives_per_object"] == 2
    assert 0 <= latest["sinkhorn_error"] < 1e-3


def test_statistics_of_a_batch_without_objects():
    targets = random_targets(0, 0)
    with EventStorage(19) as storage:
        OptimalTransportMatcher()(*random_predictions(targets, 1, 5), targets)
        assert list(storage.latest()) == ["sinkhorn_error"]


def test_built_from_a_config(tiny_cfg):
    settings = tiny_cfg.MODEL.SparseRCNN.MATCHER
    defaults = [settings[key] for key in ("K", "DYNAMIC_K", "TOP_Q", "STEP")]
    assert defaults == [3, False, 8, 0.5]
    settings.NAME = "optimal_transport"
    settings.K, settings.DYNAMIC_K, settings.TOP_Q, settings.STEP = 4, True, 5, 0.25
    settings.SINKHORN_EPS, settings.SINKHORN_ITERS = 0.01, 20
    settings.ROUNDING = "largest_share"
    matcher = build_matcher(tiny_cfg)
    assert isinstance(matcher, OptimalTransportMatcher)
    assert (matcher.k, matcher.dynamic_k, matcher.top_q, matcher.step) == (4, True, 5, 0.25)
    assert (matcher.epsilon, matcher.num_iterations) == (0.01, 20)
    assert matcher.rounding == "largest_share"


@pytest.mark.parametrize("options", [{"k": 4}, {"k": 2.5, "step": 1.0}, {"dynamic_k": True}])
@pytest.mark.parametrize("skill", [0.0, 1.0])
def test_no_more_positives_than_the_host_expects(options, skill):
    """Nor fewer than half where each object takes all that it can."""
    targets = random_targets(3, 0, 12, 30)
    assignment = OptimalTransportMatcher(**options)(
        *random_predictions(targets, 4, 25, skill), targets
    )
    found = assignment.num_positives
    most = torch.tensor(assignment.capacity)
    assert (found <= most).all() and (most <= 3 * 25).all()
    if "k" in options:
        assert (found >= most / 2).all()


def test_a_rounding_without_limit_may_fill_all_places():
    targets = random_targets(3)
    matcher = OptimalTransportMatcher(rounding="largest_share")
    assert matcher(*random_predictions(targets, 2, 9), targets).capacity is None


def test_capacity_by_hand():
    matcher = OptimalTransportMatcher(k=3, step=0.5)
    # Supplies 1.5, 2, 2.5 and 3 of each of 2 objects; of 9 objects, the 5 proposals are fewer.
    assert matcher.capacity(4, 5, [2, 0, 9]) == [4 + 5, 4 + 5, 5 + 5, 5 + 5]


@pytest.mark.parametrize(
    "argument,key",
    [("k", "K"), ("top_q", "TOP_Q"), ("epsilon", "SINKHORN_EPS"), ("num_iterations", "ITERS")],
)
def test_numbers_out_of_range_are_named(argument, key):
    with pytest.raises(ValueError, match=f"{key} is 0"):
        OptimalTransportMatcher(**{argument: 0})
    with pytest.raises(ValueError, match="ROUNDING is 'up'; it must be one of supply, largest_sh"):
        OptimalTransportMatcher(rounding="up")

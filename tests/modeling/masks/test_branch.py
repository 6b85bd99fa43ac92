import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from sparsercnn import add_sparsercnn_config
from sparsercnn.modeling.activation_checkpoint import checkpoint_activations
from sparsercnn.modeling.masks import ObjectMasks, branch, dice_loss
from sparsercnn.structures import Assignment, Targets

EMPTY = -1


def test_dice_by_hand():
    targets = torch.tensor([[[1.0, 1], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]])
    logits = torch.tensor([[[0.0, 0], [0, 0]], [[50, 50], [50, 50]], [[0, 0], [0, 0]]])
    # 1 - 2 (1/2 + 1/2) / (4/4 + 2), and a perfect mask, and one of nothing
    expected = torch.tensor([1 - 2 / 3, 0.0, 1.0])
    torch.testing.assert_close(dice_loss(logits, targets), expected, atol=1e-5, rtol=0)


def make_assignment(capacity):
    index = torch.tensor(
        [[[EMPTY, 1, EMPTY, 0], [EMPTY, EMPTY, 0, EMPTY]], [[2, 1, 0, EMPTY], [EMPTY] * 4]]
    )
    return Assignment(index, torch.ones(2), capacity)


def test_places_hold_all_positives_once_and_then_repeat_them():
    place, first, counts = branch._choose(make_assignment([5, 3]))
    assert counts == [5, 3]
    assert place.tolist() == [1, 3, 6, 1, 3, 8, 9, 10]
    assert first.tolist() == [True] * 3 + [False] * 2 + [True] * 3
    place, first, counts = branch._choose(make_assignment(None))
    assert counts == [8, 8]
    assert place[first].tolist() == [1, 3, 6, 8, 9, 10]


def test_a_stage_without_positives_has_none():
    assignment = Assignment(torch.full((1, 2, 3), EMPTY), torch.ones(1), [2])
    _, first, _ = branch._choose(assignment)
    assert not first.any()
    assignment.capacity = [0]  # one place nevertheless, which does not count
    place, first, counts = branch._choose(assignment)
    assert (place.tolist(), first.tolist(), counts) == ([0], [False], [1])


@pytest.fixture
def model(mask_cfg):
    return build_model(mask_cfg)


def make_state(model, inputs):
    """What the mask branch gets in training, for boxes near the objects."""
    S, B, N, C = 2, len(inputs), 6, 32
    instances = [x["instances"] for x in inputs]
    targets = Targets.from_instances(instances, "cpu")
    features = [torch.randn(B, C, 96 >> i, 96 >> i) for i in range(2, 6)]
    boxes = targets.boxes[:, torch.arange(N) % targets.boxes.shape[1]].repeat(S, 1, 1, 1)
    boxes = boxes + 8 * torch.rand_like(boxes)
    queries = torch.randn(S, B, N, C, requires_grad=True)
    return features, queries, boxes, targets, ObjectMasks.from_instances(instances, "cpu")


INDEX = torch.tensor(
    [
        [[EMPTY, 1, 0, EMPTY, EMPTY, EMPTY], [EMPTY] * 6, [0, 0, EMPTY, 0, EMPTY, EMPTY]],
        [[1, EMPTY, EMPTY, EMPTY, EMPTY, 0], [EMPTY] * 6, [EMPTY] * 5 + [0]],
    ]
)


@pytest.mark.parametrize("capacity", [[5, 3], [9, 4], None])
def test_loss_is_the_sum_over_the_positives_of_each_stage(model, inputs, capacity):
    features, queries, boxes, targets, masks = make_state(model, inputs)
    found = model.mask_branch.loss(
        features, queries, boxes, targets, masks, Assignment(INDEX, torch.ones(2), capacity)
    )
    expected = [0, 0]
    for s, i, n in (INDEX != EMPTY).nonzero().tolist():
        row = INDEX[s, i, n]
        roi = boxes[s, i, n].detach()
        pooled = model.mask_branch.pooler([x[i : i + 1] for x in features], roi[None, None])
        head = model.mask_branch.mask_head[s]
        logits = head(queries[s, i, n][None], pooled, targets.classes[i, row][None])
        alone = ObjectMasks.from_instances([inputs[i]["instances"]], "cpu")
        zero = torch.zeros(1, dtype=torch.int64)
        expected[s] += dice_loss(logits, alone.crop(roi[None], zero, row[None], 8))[0]
    expected = torch.stack(expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    changed = [queries, *model.mask_branch.parameters()]
    grads, expected_grads = (torch.autograd.grad(x.sum(), changed) for x in (found, expected))
    assert grads[0].any() and not grads[0][INDEX == EMPTY].any()
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=1e-5)


def test_losses_have_the_weight_and_divisor_of_the_stage(model, inputs):
    """Three objects, so three pairs at each stage; the dice loss is at most 1."""
    losses = model(inputs)
    names = {name for name in losses if "mask" in name}
    assert names == {"loss_mask", "loss_mask_0"}
    assert all(0 < losses[name] <= 8 for name in names)
    model.criterion.mask_weight = 4.0
    torch.testing.assert_close(model(inputs)["loss_mask"], losses["loss_mask"] / 2)


def test_the_rest_of_the_model_is_as_without_masks(mask_cfg, inputs):
    torch.manual_seed(3)
    model = build_model(mask_cfg)
    mask_cfg.MODEL.MASK_ON = False
    torch.manual_seed(3)
    boxes_alone = build_model(mask_cfg)
    ours = {name: x for name, x in model.state_dict().items() if not name.startswith("mask_branch")}
    theirs = boxes_alone.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    torch.manual_seed(4)
    expected = boxes_alone(inputs)
    torch.manual_seed(4)
    losses = model(inputs)
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    with torch.no_grad():
        found, without = (x.eval()(inputs) for x in (model, boxes_alone))
    for ours, theirs in zip(found, without, strict=True):
        ours, theirs = ours["instances"], theirs["instances"]
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert torch.equal(ours.scores, theirs.scores)
        assert "pred_masks" in ours.get_fields() and "pred_masks" not in theirs.get_fields()


@pytest.mark.parametrize(
    "images",
    [
        [((64, 64), [], []), ((64, 96), [], [])],
        [((64, 64), [[i, i, i + 20, i + 20] for i in range(9)], [0] * 9)],
        [((33, 97), [[1, 1, 20, 20]], [0]), ((128, 40), [[1, 1, 30, 99]], [2])],
    ],
    ids=["no objects", "more objects than proposals", "mixed sizes"],
)
@pytest.mark.parametrize("matcher", ["hungarian", "optimal_transport"])
@pytest.mark.parametrize("norm", ["", "BN"])
def test_odd_batches_train(mask_cfg, make_masked, images, matcher, norm):
    mask_cfg.MODEL.SparseRCNN.MATCHER.NAME = matcher
    mask_cfg.MODEL.SparseRCNN.MASK.NORM = norm
    model = build_model(mask_cfg)
    losses = model([make_masked(*image) for image in images])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    # All of them, or DistributedDataParallel would wait for the rest.
    assert [name for name, grad in grads.items() if grad is None] == []
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("key", ["MASK.SHARED", "DEEP_SUPERVISION"])
def test_one_head_for_all_stages_or_for_the_only_one_with_a_loss(mask_cfg, inputs, key):
    mask_cfg.merge_from_list([f"MODEL.SparseRCNN.{key}", key == "MASK.SHARED"])
    model = build_model(mask_cfg)
    assert len(model.mask_branch.mask_head) == 1
    losses = model(inputs)
    assert ("loss_mask_0" in losses) == (key == "MASK.SHARED") and "loss_mask" in losses
    with torch.no_grad():
        stages = model.eval()(inputs, all_stages=True)[0]
    assert [x["instances"].has("pred_masks") for x in stages] == [True, True]


def test_masks_of_detections(model, inputs):
    """Of the query, box and class of each, in its image; the last stage's, or of all stages."""
    given = [{"image": x["image"], "height": 100, "width": 80} for x in inputs]
    model.eval().max_detections = 4
    with torch.no_grad():
        bare = model(given, do_postprocess=False)
        results = model(given)
        stages = model(given, all_stages=True)
        images, sizes = model.preprocess_images(given)
        features = list(model.backbone(images.tensor).values())[:4]
        logits, boxes, queries = model.head(features, *model.proposals(features, sizes))
        for i, found in enumerate(bare):
            flat, place = logits[-1, i].sigmoid().flatten().topk(6)
            torch.testing.assert_close(found.scores, flat)
            roi = boxes[-1, i][place // 3].clone()
            roi[:, 0::2].clamp_(0, found.image_size[1])
            roi[:, 1::2].clamp_(0, found.image_size[0])
            pooled = model.mask_branch.pooler([x[i : i + 1] for x in features], roi[None])
            head = model.mask_branch.mask_head[-1]
            expected = head(queries[-1, i][place // 3], pooled, place % 3).sigmoid()
            torch.testing.assert_close(found.pred_masks[:, 0], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.pred_boxes.tensor, roi)
            instances = results[i]["instances"]
            assert instances.pred_masks.shape == (len(instances), 100, 80)
            assert instances.pred_masks.dtype == torch.bool
            assert torch.equal(stages[i][-1]["instances"].pred_masks, instances.pred_masks)
            assert not instances.has("proposals")


def test_an_image_without_detections_has_no_masks(model, inputs):
    model.eval().score_thresh = 0.999
    with torch.no_grad():
        results = model([{"image": x["image"]} for x in inputs])
    assert results[0]["instances"].pred_masks.shape == (0, 64, 96)


@pytest.mark.parametrize("norm", ["", "BN"])
def test_checkpointing_keeps_losses_and_gradients(mask_cfg, inputs, norm):
    mask_cfg.MODEL.SparseRCNN.MASK.NORM = norm
    model = build_model(mask_cfg)
    other = copy.deepcopy(model)
    checkpoint_activations(other, head=True)
    for m in (model, other):
        sum(m(inputs).values()).backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)
    torch.testing.assert_close(dict(other.named_buffers()), dict(model.named_buffers()))
    forwards = [type(x.forward).__name__ for x in other.mask_branch.mask_head]
    assert forwards == ["_Checkpointed"] * 2


def test_half_precision_is_close(model, inputs):
    losses = model(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(inputs)
    assert half["loss_mask"].dtype == torch.float32
    torch.testing.assert_close(half["loss_mask"], losses["loss_mask"], rtol=0.1, atol=0.1)


def test_published_number_of_parameters(repository):
    """Sparse R-CNN's and six heads'."""
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(repository / "configs/sparse_rcnn/sparsercnn.res50.100pro.1x.yaml"))
    cfg.MODEL.MASK_ON, cfg.MODEL.DEVICE = True, "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 106_015_368 + 6 * 11_066_320

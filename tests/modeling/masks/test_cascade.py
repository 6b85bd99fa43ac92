"""Cascade Mask R-CNN with a mask head for each stage, as mmdetection's."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from sparsercnn import add_sparsercnn_config
from sparsercnn.engine.setup import load_config
from sparsercnn.errors import ConfigError

MMDETECTION = [
    "MODEL.ROI_HEADS.NAME", "CascadeMaskROIHeads",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", "1.0",
    "MODEL.RPN.SMOOTH_L1_BETA", "0.1111",
]  # fmt: skip


@pytest.fixture
def cascade_cfg(repository):
    """The quickstart's Cascade Mask R-CNN with 16 channels and mmdetection's heads."""
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(repository / "configs/quickstart/cascade_mask_rcnn.yaml"))
    cfg.merge_from_list(MMDETECTION)
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.RPN.CONV_DIMS = [16]
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 10
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return cfg


@pytest.fixture
def inputs(make_input):
    def make(size, boxes, classes):
        x = make_input(size, boxes, classes)
        triangles = [[[x1, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes]
        x["instances"].gt_masks = PolygonMasks(triangles)
        return x

    return [make((64, 96), [[4, 4, 40, 50], [50, 10, 90, 60]], [0, 2]), make((50, 40), [], [])]


def test_each_stage_has_a_mask_head_that_learns(cascade_cfg, inputs):
    model = build_model(cascade_cfg)
    names = [name for name in model.state_dict() if "mask_head" in name]
    assert "roi_heads.mask_head.2.predictor.weight" in names
    assert {name.split(".")[2] for name in names} == {"0", "1", "2"}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with EventStorage() as storage:
        losses = model(inputs)
    assert {name for name in losses if "stage" in name} == {
        f"loss_{x}_stage{i}" for i in range(3) for x in ("cls", "box_reg", "mask")
    }
    assert "stage2/mask_rcnn/accuracy" in storage.latest()
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad.any() for p in model.roi_heads.mask_head[2].predictor.parameters())
    optimizer.step()
    with torch.no_grad():
        found = model.eval()([{"image": x["image"], "height": 100, "width": 80} for x in inputs])
    assert len(found[0]["instances"]) > 0
    assert found[0]["instances"].pred_masks.shape == (len(found[0]["instances"]), 100, 80)


def losses_of(cfg, inputs, weights):
    cfg.MODEL.CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS = weights
    torch.manual_seed(1)
    model = build_model(cfg)
    torch.manual_seed(2)  # of the samples
    with EventStorage():
        losses = model(inputs)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_weights_multiply_all_losses_of_their_stage(cascade_cfg, inputs):
    plain, plain_grads = losses_of(cascade_cfg, inputs, (1.0, 1.0, 1.0))
    weighted, grads = losses_of(cascade_cfg, inputs, (1.0, 0.5, 0.25))
    for name in ("loss_cls", "loss_box_reg", "loss_mask"):
        for stage, weight in enumerate((1, 0.5, 0.25)):
            expected = plain[f"{name}_stage{stage}"] * weight
            torch.testing.assert_close(weighted[f"{name}_stage{stage}"], expected)
    assert weighted["loss_rpn_cls"] == plain["loss_rpn_cls"]
    for name in ("box_head.1.fc2.weight", "mask_head.1.predictor.weight"):
        name = f"roi_heads.{name}"
        torch.testing.assert_close(grads[name], plain_grads[name] / 2, rtol=1e-4, atol=1e-7)


def test_gradients_of_features_are_not_divided(cascade_cfg):
    """Detectron2's own cascade divides them by the number of stages, instead of weights."""
    heads = build_model(cascade_cfg).roi_heads
    features = [torch.randn(1, 16, s, s, requires_grad=True) for s in (32, 16, 8, 4)]
    proposals = Instances((128, 128))
    proposals.proposal_boxes = Boxes(torch.tensor([[10.0, 10, 60, 60]]))
    scores, _ = heads._run_stage(features, [proposals], 1)
    (grad,) = torch.autograd.grad(scores.sum(), features[0])
    pooled = heads.box_pooler(features, [proposals.proposal_boxes])
    expected = heads.box_predictor[1](heads.box_head[1](pooled))[0].sum()
    torch.testing.assert_close(grad, torch.autograd.grad(expected, features[0])[0])


def test_box_loss_is_smooth_l1_by_hand(cascade_cfg):
    """With beta 1: d^2 / 2 below a difference of 1, |d| - 1/2 above."""
    predictor = build_model(cascade_cfg).roi_heads.box_predictor[0]
    assert predictor.box2box_transform.weights == (10.0, 10.0, 5.0, 5.0)
    box = torch.tensor([[0.0, 0, 10, 20]])
    moved = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)).apply_deltas(
        torch.tensor([[0.5, 3.0, 0.0, 0.0]]), box
    )
    loss = predictor.box_reg_loss(box, moved, torch.zeros(1, 4), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.5**2 / 2 + (3 - 0.5), rel=1e-4)


def test_each_stage_samples_by_its_own_threshold_and_sees_the_ground_truth(cascade_cfg, inputs):
    heads = build_model(cascade_cfg).roi_heads
    target = inputs[0]["instances"]
    # IoUs of 0.55, 0.65 and 0.75 with the first object, by their height.
    x1, y1, x2, y2 = target.gt_boxes.tensor[0].tolist()
    boxes = [[x1, y1, x2, y1 + iou * (y2 - y1)] for iou in (0.55, 0.65, 0.75)]
    for stage, expected in enumerate((3, 2, 1)):
        proposals = Instances((64, 96))
        proposals.proposal_boxes = Boxes(torch.tensor(boxes))
        with EventStorage():
            (sampled,) = heads._sample([proposals], [target], stage)
        foreground = sampled[sampled.gt_classes < 3]
        assert len(foreground) == expected + 2  # and both objects themselves
        assert len(foreground.gt_masks) == len(foreground) and len(sampled) == 5
    assert heads.proposal_matcher is heads.proposal_matchers[0]


class _Constant(nn.Module):
    """A mask head or a stage that always says the same."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x, instances):
        for instance in instances:
            instance.pred_masks = torch.full((len(instance), 1, 2, 2), self.value)
        return instances


def test_inference_averages_the_probabilities_of_the_masks(cascade_cfg):
    heads = build_model(cascade_cfg).roi_heads.eval()
    heads.mask_head = nn.ModuleList(_Constant(value) for value in (0.9, 0.6, 0.3))
    detections = []
    for boxes in ([[0.0, 0, 9, 9], [3, 3, 20, 30]], []):
        detections.append(Instances((32, 32)))
        detections[-1].pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        detections[-1].pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
    features = {f"p{i}": torch.randn(2, 16, 128 >> i, 128 >> i) for i in range(2, 6)}
    first, second = heads._forward_mask(features, detections)
    torch.testing.assert_close(first.pred_masks, torch.full((2, 1, 2, 2), 0.6))
    assert second.pred_masks.shape == (0, 1, 2, 2)


def test_boxes_are_not_rounded_to_maps_in_half_precision(cascade_cfg):
    heads = build_model(cascade_cfg).roi_heads.eval()
    box = Boxes(torch.tensor([[1027.0, 1029, 1093, 1099]]))
    features = {f"p{i}": torch.randn(1, 16, 1280 >> i, 1280 >> i).bfloat16() for i in range(2, 6)}
    whole = {name: x.float() for name, x in features.items()}
    assert torch.equal(heads._pool_masks(features, [box]), heads._pool_masks(whole, [box]))
    proposals = [Instances((1280, 1280), proposal_boxes=box)]
    scores = [heads._forward_box(x, proposals)[0].scores for x in (features, whole)]
    assert torch.equal(*scores)


def test_inference_averages_the_logits_of_the_classes(cascade_cfg, monkeypatch):
    heads = build_model(cascade_cfg).roi_heads.eval()
    logits = torch.tensor([[6.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 0, 0]])
    monkeypatch.setattr(
        heads, "_run_stage", lambda features, proposals, i: (logits[i][None], torch.zeros(1, 4))
    )
    proposals = Instances((64, 64))
    proposals.proposal_boxes = Boxes(torch.tensor([[5.0, 5, 30, 40]]))
    (found,) = heads._forward_box({f"p{i}": torch.zeros(1) for i in range(2, 6)}, [proposals])
    expected = torch.tensor([2.0, 1, 0, 0]).softmax(0)[:3]
    torch.testing.assert_close(found.scores, expected)
    assert found.pred_classes.tolist() == [0, 1, 2]
    torch.testing.assert_close(found.pred_boxes.tensor[0], torch.tensor([5.0, 5, 30, 40]))


def test_boxes_without_masks(cascade_cfg, inputs):
    cascade_cfg.MODEL.MASK_ON = False
    model = build_model(cascade_cfg)
    with EventStorage():
        losses = model(inputs)
    assert not any("mask" in name for name in losses) and "loss_cls_stage2" in losses
    with torch.no_grad():
        (found,) = model.eval()(inputs[:1])
    assert not found["instances"].has("pred_masks")


def test_published_configs_have_this_cascade(repository):
    for path in sorted((repository / "configs/attention_fpn").glob("cascade_*.yaml")):
        cfg = load_config(str(path), register=False)
        assert cfg.MODEL.ROI_HEADS.NAME == "CascadeMaskROIHeads"
        assert cfg.MODEL.CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS == (1.0, 0.5, 0.25)
        assert cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA == 1
        assert abs(cfg.MODEL.RPN.SMOOTH_L1_BETA - 1 / 9) < 1e-4
        assert not cfg.SOLVER.NO_DECAY_NORM_BIAS


def test_weights_must_be_as_many_as_stages_and_have_an_effect(cascade_cfg, repository):
    cascade_cfg.MODEL.CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS = (1.0, 0.5)
    with pytest.raises(ValueError, match="STAGE_LOSS_WEIGHTS has 2 weights for the 3 stages"):
        build_model(cascade_cfg)
    path = str(repository / "configs/quickstart/cascade_mask_rcnn.yaml")
    opts = ["MODEL.CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS", "(1.0, 1.0, 1.0)"]
    load_config(path, [*MMDETECTION, *opts], register=False)
    with pytest.raises(ConfigError, match="has no effect with MODEL.ROI_HEADS.NAME CascadeROI"):
        load_config(path, opts, register=False)

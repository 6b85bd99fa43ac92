import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torchvision.ops import roi_align

from sparsercnn.analysis import count_forward, count_parameters, make_batch


class Apply(nn.Module):
    """A function of an image, as a detectron2 model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return [{"out": self.function(x["image"])} for x in inputs]


class LinearDetector(nn.Module):
    """Linear layers alone, with the names of a detector's parts."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": nn.Linear(4, 8), "lateral": nn.Linear(8, 3)})
        self.head = nn.ModuleDict({"stage": nn.ModuleDict({"inst_interact": nn.Linear(3, 5)})})
        self.head.logits = nn.Linear(5, 2, bias=False)
        self.extra = nn.Linear(2, 2)

    def forward(self, inputs):
        x = self.backbone["bottom_up"](inputs[0]["image"])
        x = self.head["stage"]["inst_interact"](self.backbone["lateral"](x))
        return self.extra(self.head.logits(x))


def flops_of(function, *shape):
    cost = count_forward(Apply(function).eval(), [{"image": torch.rand(*shape)}])
    return cost.flops.get("other", 0)


def test_linear_layers_worked_by_hand():
    model = LinearDetector().eval()
    cost = count_forward(model, [{"image": torch.rand(10, 4)}])
    assert cost.flops == {
        "backbone": 10 * 4 * 8,
        "neck": 10 * 8 * 3,
        "interaction": 10 * 3 * 5,
        "head": 10 * 5 * 2,
        "other": 10 * 2 * 2,
    }
    assert cost.activations == 10 * (8 + 3 + 5 + 2 + 2)
    assert cost.uncounted == set()


def test_a_backbone_without_a_neck_is_all_backbone():
    model = LinearDetector().eval()
    model.backbone = nn.ModuleDict({"stem": nn.Linear(4, 3)})
    model.forward = lambda inputs: model.backbone["stem"](inputs[0]["image"])
    assert count_forward(model, [{"image": torch.rand(10, 4)}]).flops == {"backbone": 120}


def test_attention_worked_by_hand():
    """Two heads, 3 queries and 6 keys of 4 channels, values of 5: 2 * 3 * 6 * (4 + 5)."""

    def attend(x):
        key, value = torch.ones(1, 2, 6, 4), torch.ones(1, 2, 6, 5)
        return F.scaled_dot_product_attention(x, key, value)

    assert flops_of(attend, 1, 2, 3, 4) == 324


def test_multi_head_attention_worked_by_hand():
    """Fused or not: four projections of 8 x 8, and 6 x 6 scores of 8 channels twice."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval().requires_grad_(False)
    expected = 3 * (6 * 4 * 8 * 8 + 2 * 6 * 6 * 8)

    def fused(x):
        return attention(x, x, x, need_weights=False)[0]

    def not_fused(x):
        return attention(x, x, x + 1, need_weights=False)[0]

    for function in (fused, not_fused):
        cost = count_forward(Apply(function).eval(), [{"image": torch.rand(3, 6, 8)}])
        assert cost.flops == {"other": expected}
        assert cost.activations == 3 * 6 * 8 * 5


def test_roi_align_worked_by_hand():
    """Two boxes of 3 x 2 x 2 values, each the mean of 2 x 2 samples of four corners."""
    boxes = torch.tensor([[0.0, 0, 0, 9, 9], [0, 2, 2, 5, 7]])
    assert flops_of(lambda x: roi_align(x, boxes, 2, sampling_ratio=2), 1, 3, 12, 12) == 2 * 12 * 16


def test_embedding_bag_worked_by_hand():
    """Four bags of five rows of three values."""

    def function(x):
        rows = torch.arange(20).view(4, 5) % 7
        return F.embedding_bag(rows, x, per_sample_weights=torch.ones(4, 5), mode="sum")

    assert flops_of(function, 7, 3) == 4 * 5 * 3


def test_convolution_and_norm_worked_by_hand():
    """fvcore's rough estimate for a LayerNorm is five operations a value."""
    assert flops_of(lambda x: F.conv2d(x, torch.ones(5, 3, 3, 3)), 2, 3, 10, 8) == 2 * 135 * 8 * 6
    weight = torch.ones(7)
    assert flops_of(lambda x: F.layer_norm(x, (7,), weight), 4, 7) == 4 * 7 * 5


def test_what_is_not_counted_is_named():
    cost = count_forward(Apply(torch.sigmoid).eval(), [{"image": torch.rand(2, 2)}])
    assert cost.uncounted == {"sigmoid"} and cost.flops == {}


def test_parts_of_a_detector_sum_to_the_total(tiny_cfg):
    """fvcore's own total, plus what it does not know: attention and RoIAlign."""
    model = build_model(tiny_cfg).eval()
    inputs = make_batch((64, 96))

    def scores(image):
        return model([{"image": image}])[0]["instances"].scores

    with torch.no_grad():
        total = FlopCountAnalysis(_Module(scores, model), inputs[0]["image"])
        total.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        total = total.tracer_warnings("none").total()
    stages, N, C = 2, 6, 32
    attention = N * 4 * C * C + 2 * N * N * C
    pooling = N * C * 49 * 4 * 4
    cost = count_forward(model, inputs)
    assert set(cost.flops) == {"backbone", "neck", "head", "interaction"}
    assert sum(cost.flops.values()) == total + stages * (attention + pooling)
    D = 8  # of dynamic convolution: its layer, two products, two norms, the output and its norm
    interaction = C * 2 * C * D + 2 * 49 * C * D + 5 * 49 * (D + C) + 49 * C * C + 5 * C
    assert cost.flops["interaction"] == stages * N * interaction


class _Module(nn.Module):
    def __init__(self, function, model):
        super().__init__()
        self.function, self.model = function, model

    def forward(self, x):
        return self.function(x)


def test_frozen_parameters_are_told_apart():
    model = LinearDetector()
    model.extra.requires_grad_(False)
    everything = (4 + 1) * 8 + (8 + 1) * 3 + (3 + 1) * 5 + 5 * 2 + (2 + 1) * 2
    assert count_parameters(model) == (everything - 6, everything)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="inference"):
        count_forward(LinearDetector().train(), [{"image": torch.rand(1, 4)}])

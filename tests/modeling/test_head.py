import math

import pytest
import torch
from detectron2.config import configurable
from detectron2.modeling import build_model
from torch import nn

from sparsercnn.modeling import (
    INTERACTION_REGISTRY,
    DynamicConv,
    IterativeHead,
    PyramidRoIAlign,
    Stage,
)


def make_head(num_classes=5, num_stages=2, C=16, **kwargs):
    stages = [
        Stage(
            interaction=DynamicConv(hidden_dim=C, dim_dynamic=4, pooler_resolution=3),
            num_logits=num_classes,
            hidden_dim=C,
            num_attention_heads=4,
            dim_feedforward=24,
        )
        for _ in range(num_stages)
    ]
    pooler = PyramidRoIAlign(output_size=3, strides=[4, 8])
    return IterativeHead(stages=stages, pooler=pooler, **kwargs)


@pytest.fixture
def inputs():
    features = [torch.randn(2, 16, 24, 32), torch.randn(2, 16, 12, 16)]
    corner = torch.rand(2, 7, 2) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(2, 7, 2) * 30], dim=2)
    return features, boxes, torch.randn(2, 7, 16)


def test_boxes_decode_what_was_encoded():
    transform = make_head(num_stages=1).head_series[0].box_transform
    source = torch.tensor([[0.0, 0, 10, 20], [5, 5, 105, 25]])
    target = torch.tensor([[3.0, -4, 30, 6], [50, 0, 60, 80]])
    deltas = transform.get_deltas(source, target)
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target)
    # By hand: the centre moves by 11.5 of 10 pixels, with weight 2.
    assert deltas[0, 0].item() == pytest.approx(2 * 1.15)
    assert deltas[0, 2].item() == pytest.approx(math.log(2.7))


def test_growth_of_a_box_is_clamped():
    transform = make_head(num_stages=1).head_series[0].box_transform
    grown = transform.apply_deltas(
        torch.tensor([[0.0, 0, 1e4, 1e4]]), torch.tensor([[0.0, 0, 16, 16]])
    )
    assert (grown[0, 2] - grown[0, 0]).item() == pytest.approx(100000, rel=1e-4)


@pytest.mark.parametrize("num_classes", [1, 3, 4, 16, 24, 64, 256])
def test_the_classification_bias_and_nothing_else_carries_the_prior(num_classes):
    """Whatever coincides with the number of classes: here 16 channels, 24 hidden, 4 deltas."""
    head = make_head(num_classes, prior_prob=0.01)
    prior = -math.log(99)
    for name, parameter in head.named_parameters():
        holds_prior = torch.isclose(parameter, torch.tensor(prior)).any().item()
        assert holds_prior == name.endswith("class_logits.bias"), name
    assert all(stage.class_logits.bias.shape == (num_classes,) for stage in head.head_series)


@pytest.mark.parametrize("dynamic_cbam", [True, False])
@pytest.mark.parametrize("interaction", ["dynamic_conv", "dual_attention"])
def test_a_seed_gives_the_weights_that_it_always_gave(tiny_cfg, interaction, dynamic_cbam):
    """All stages are made first; then every matrix is drawn by Xavier, one after the other."""
    sparse = tiny_cfg.MODEL.SparseRCNN
    sparse.INTERACTION = interaction
    sparse.DUAL_ATTENTION.DYNAMIC_CBAM = dynamic_cbam
    stages = nn.ModuleList(Stage(tiny_cfg) for _ in range(sparse.NUM_HEADS))
    for parameter in stages.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    expected = stages.state_dict()

    torch.manual_seed(0)
    stages = [Stage(tiny_cfg) for _ in range(sparse.NUM_HEADS)]
    head = IterativeHead(stages=stages, pooler=nn.Identity())
    for name, value in head.head_series.state_dict().items():
        assert torch.equal(value, expected[name]), name


class FiLM(nn.Module):
    """Scale and shift of the pooled RoI feature, zero at first: a stage starts without them."""

    @configurable
    def __init__(self, *, hidden_dim):
        super().__init__()
        self.linear = nn.Linear(hidden_dim, 2 * hidden_dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def from_config(cls, cfg):
        return {"hidden_dim": cfg.MODEL.SparseRCNN.HIDDEN_DIM}

    def forward(self, proposal_features, roi_features):
        scale, shift = self.linear(proposal_features).chunk(2, dim=1)
        return scale * roi_features.mean((2, 3)) + shift


def test_an_interaction_keeps_the_initialisation_that_it_gives_itself(
    tiny_cfg, make_input, monkeypatch
):
    monkeypatch.setitem(INTERACTION_REGISTRY._obj_map, "film", FiLM)
    tiny_cfg.MODEL.SparseRCNN.INTERACTION = "film"
    model = build_model(tiny_cfg)
    films = [stage.inst_interact for stage in model.head.head_series]
    assert all(film.linear.weight.eq(0).all() for film in films)
    bound = math.sqrt(6 / (32 + 64))  # of Xavier, where torch would have 1 / sqrt(32)
    for stage in model.head.head_series:
        assert stage.linear1.weight.abs().max().item() == pytest.approx(bound, rel=0.01)

    inputs = [make_input((64, 64), [[4, 4, 40, 40]], [1]), make_input((64, 64))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(5):
        optimizer.zero_grad()
        total = sum(model(inputs).values())
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    assert all(film.linear.weight.ne(0).any() for film in films)


def test_permuted_proposals_permute_the_outputs(inputs):
    features, boxes, proposal_features = inputs
    head = make_head().eval()
    order = torch.randperm(7)
    logits, refined, _ = head(features, boxes, proposal_features)
    logits2, refined2, _ = head(features, boxes[:, order], proposal_features[:, order])
    torch.testing.assert_close(logits2, logits[:, :, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(refined2, refined[:, :, order], rtol=1e-4, atol=1e-3)


def test_images_of_a_batch_do_not_meet(inputs):
    features, boxes, proposal_features = inputs
    head = make_head().eval()
    logits, refined, _ = head(features, boxes, proposal_features)
    logits1, refined1, _ = head([f[1:] for f in features], boxes[1:], proposal_features[1:])
    torch.testing.assert_close(logits[:, 1:], logits1, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(refined[:, 1:], refined1, rtol=1e-4, atol=1e-3)


def test_boxes_are_detached_between_stages(inputs):
    features, boxes, proposal_features = inputs
    boxes.requires_grad_()
    head = make_head(num_stages=3)
    _, refined, _ = head(features, boxes, proposal_features)
    refined[2].sum().backward()
    assert boxes.grad is None or boxes.grad.eq(0).all()
    assert head.head_series[0].bboxes_delta.weight.grad.eq(0).all()
    assert head.head_series[1].bboxes_delta.weight.grad.eq(0).all()
    assert head.head_series[0].linear1.weight.grad.abs().sum() > 0


def test_predictions_are_float32_in_half_precision(inputs):
    features, boxes, proposal_features = inputs
    head = make_head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, refined, _ = head(features, boxes, proposal_features)
    assert logits.dtype == refined.dtype == torch.float32
    expected, refined32, _ = head(features, boxes, proposal_features)
    assert (logits - expected).abs().max() < 0.3
    assert (refined - refined32)[
        0
    ].abs().max() < 2.0  # pixels: the deltas' rounding, not the boxes'


def test_unknown_activation_names_the_key():
    with pytest.raises(ValueError, match="MODEL.SparseRCNN.ACTIVATION.*'glu'"):
        Stage(interaction=nn.Identity(), num_logits=2, hidden_dim=8, activation="glu")


def test_channels_must_agree(tiny_cfg):
    from detectron2.layers import ShapeSpec

    shape = {f"p{i}": ShapeSpec(channels=48, stride=2**i) for i in range(2, 6)}
    with pytest.raises(ValueError, match="p2 has 48 channels.*HIDDEN_DIM is 32"):
        IterativeHead(tiny_cfg, shape)

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from sparsercnn import add_sparsercnn_config
from sparsercnn.analysis import bytes_kept_for_backward
from sparsercnn.modeling import DualAttention
from sparsercnn.modeling.interaction.dual_attention import (
    CBAM,
    DynamicGate,
    StaticChannelGate,
    StaticPositionGate,
)
from sparsercnn.modeling.interaction.encoder import FeedForward, sine_position_code

C, SIDE = 16, 3  # of the modules below
BRANCHES = {"both": (2, 1), "cbam alone": (2, 0), "transformer alone": (0, 2), "neither": (0, 0)}
VARIANTS = pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])


def make_module(num_cbam=2, num_transformer=1, **kwargs):
    options = {"num_attention_heads": 4, "dim_feedforward": 24, "pooler_resolution": SIDE, **kwargs}
    return DualAttention(
        hidden_dim=C, num_cbam=num_cbam, num_transformer=num_transformer, **options
    )


def make_inputs(num_rois=5):
    return torch.randn(num_rois, C), torch.randn(num_rois, C, SIDE, SIDE)


# ---- what was published


@pytest.mark.parametrize(
    "config,trainable,published",
    [
        ("dual_attention.res50.100pro.1x", 65_420_112, 65.5),
        ("dual_attention_released.res50.100pro.1x", 78_044_490, 78.1),
    ],
)
def test_number_of_parameters(repository, config, trainable, published):
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(repository / f"configs/dual_attention/{config}.yaml"))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable
    # The published counts hold the scale and shift of res3 to res5's batch norms, which
    # detectron2 keeps as buffers: it freezes them.
    norms = sum(
        value.numel()
        for name, value in model.state_dict().items()
        if any(stage in name for stage in ("res3", "res4", "res5"))
        and name.endswith(("norm.weight", "norm.bias"))
    )
    assert round((trainable + norms) / 1e6, 1) == published


# ---- position code


def test_position_code_is_computed_once_and_not_saved():
    module = make_module()
    assert not any("position" in name for name in module.state_dict() if "gate" not in name)
    torch.testing.assert_close(module.position_code, sine_position_code(SIDE, SIDE, C))


# ---- CBAM


def test_dynamic_cbam_worked_by_hand():
    """One channel, 2 x 2 positions; a LayerNorm over one value leaves its bias."""
    cbam = CBAM(DynamicGate(1, (1, 1, 1)), DynamicGate(1, (1, 2, 2)))
    with torch.no_grad():
        cbam.channel_gate.norm.bias.fill_(math.log(3))  # c = 3/4
        cbam.position_gate.linear.weight.copy_(torch.tensor([[1.0], [1], [-1], [-1]]))
        cbam.position_gate.linear.bias.zero_()
        cbam.position_gate.norm.weight.fill_(math.log(3))
    x = torch.tensor([4.0, 8, 12, 16]).view(1, 1, 2, 2)
    out = cbam(x, torch.tensor([[100.0]]))
    # LayerNorm(100, 100, -100, -100) = (1, 1, -1, -1), so s = 3/4, 3/4, 1/4, 1/4.
    expected = torch.tensor([4 + 9 / 4, 8 + 18 / 4, 12 + 9 / 4, 16 + 12 / 4]).view(1, 1, 2, 2)
    torch.testing.assert_close(out, expected)


def test_static_channel_gate_worked_by_hand():
    """One channel, the identity as feed-forward network: LayerNorm(mean, max) = (-1, 1)."""
    gate = StaticChannelGate(1, 1)
    gate.feed_forward = nn.Identity()
    with torch.no_grad():
        gate.norm.weight.copy_(torch.tensor([1.0, 3]))
    x = torch.tensor([1.0, 2, 3, 6]).view(1, 1, 2, 2)
    out = gate(x, None)
    assert out.shape == (1, 1, 1, 1)
    assert out.item() == pytest.approx(1 / (1 + math.exp(-(-1 + 3))), abs=1e-4)


def test_static_position_gate_worked_by_hand():
    """A kernel that reads the mean at its centre and the largest to the right of it."""
    gate = StaticPositionGate()
    with torch.no_grad():
        gate.conv.weight.zero_()
        gate.conv.bias.zero_()
        gate.conv.weight[0, 0, 1, 1] = 1.0
        gate.conv.weight[0, 1, 1, 2] = 1.0
    x = torch.tensor([[[1.0, 5]], [[3, -1]]])[None]  # two channels, one row, two columns
    # means 2, 2; largest 3, 5: 2 + 5 on the left, 2 + 0 beyond the border on the right.
    torch.testing.assert_close(gate(x, None), torch.tensor([7.0, 2.0]).sigmoid().view(1, 1, 1, 2))


def test_static_positions_are_weighted_after_the_channels():
    cbam = CBAM(StaticChannelGate(C, 8), StaticPositionGate())
    _, x = make_inputs()
    weighted = cbam.channel_gate(x, None) * x
    torch.testing.assert_close(cbam(x, None), x + cbam.position_gate(weighted, None) * weighted)


def test_repetitions_have_weights_of_their_own():
    module = make_module(num_cbam=3, num_transformer=0)
    proposals, rois = make_inputs()
    weights = [layer.channel_gate(rois, proposals) for layer in module.cbam]
    assert not torch.allclose(weights[0], weights[1]) and not torch.allclose(weights[1], weights[2])


# ---- RoI transformer


def test_the_place_of_a_token_and_the_proposal_matter_to_the_transformer():
    module = make_module(0, 1).eval()
    proposals, rois = make_inputs()
    encoded = module._encode(proposals, rois)
    turned = module._encode(proposals, rois.flip(3)).flip(3)
    assert (encoded - turned).abs().max() > 1e-3
    module.position_code.zero_()  # nothing else tells one place from another
    encoded = module._encode(proposals, rois)
    turned = module._encode(proposals, rois.flip(3)).flip(3)
    torch.testing.assert_close(encoded, turned, rtol=1e-4, atol=1e-5)
    assert (encoded - module._encode(proposals + 1, rois)).abs().max() > 1e-3


# ---- the interaction


@pytest.mark.parametrize("layers", BRANCHES.values(), ids=BRANCHES.keys())
def test_the_sum_of_the_branches_is_projected(layers):
    module = make_module(*layers, pre_norm=True).eval()
    proposals, rois = make_inputs()
    mixed = {
        (2, 1): lambda: module._weigh(proposals, rois) + module._encode(proposals, rois),
        (2, 0): lambda: module._weigh(proposals, rois),
        (0, 2): lambda: module._encode(proposals, rois),
        (0, 0): lambda: rois,
    }[layers]()
    normed = nn.functional.layer_norm(mixed.flatten(1), (C * SIDE * SIDE,))
    expected = module.out_norm(module.out_layer(normed))
    torch.testing.assert_close(module(proposals, rois), expected, rtol=1e-4, atol=1e-5)


def test_pre_norm_takes_scale_and_shift_out():
    """With both branches off, a RoI feature scaled and shifted as a whole gives the same update."""
    proposals, rois = make_inputs()
    for pre_norm in (True, False):
        module = make_module(0, 0, pre_norm=pre_norm)
        change = module(proposals, 10 * rois + 20) - module(proposals, rois)
        assert (change.abs().max() < 1e-3) == pre_norm


@VARIANTS
@pytest.mark.parametrize("layers", BRANCHES.values(), ids=BRANCHES.keys())
def test_gradient_reaches_every_parameter(layers, dynamic):
    module = make_module(*layers, dynamic_cbam=dynamic)
    proposals, rois = (x.requires_grad_() for x in make_inputs())
    (module(proposals, rois) * torch.randn(5, C)).sum().backward()
    for name, parameter in module.named_parameters():
        # A softmax does not see what is added to all keys alike.
        seen = parameter.grad if "in_proj_bias" not in name else parameter.grad[:C]
        assert seen is not None and seen.abs().sum() > 0, name
    assert rois.grad.abs().sum() > 0


@VARIANTS
def test_each_proposal_meets_its_own_roi(dynamic):
    module = make_module(dynamic_cbam=dynamic).eval()
    proposals, rois = make_inputs()
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(
        module(proposals[order], rois[order]), module(proposals, rois)[order], rtol=1e-4, atol=1e-5
    )


@VARIANTS
@pytest.mark.parametrize("chunk", [1, 2, 5, 9])
def test_chunks_change_nothing(dynamic, chunk):
    module = make_module(dynamic_cbam=dynamic)
    inputs, weights = make_inputs(), torch.randn(5, C)
    outputs, gradients = [], []
    for module.roi_chunk in (0, chunk):
        leaves = [x.clone().requires_grad_() for x in inputs]
        outputs.append(module(*leaves))
        (outputs[-1] * weights).sum().backward()
        gradients.append([x.grad for x in leaves] + [p.grad.clone() for p in module.parameters()])
        module.zero_grad()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(module(*inputs), outputs[0], rtol=1e-4, atol=1e-5)


def test_chunks_bound_what_is_kept_for_the_backward_pass():
    module, inputs = make_module(), make_inputs(64)
    everything = bytes_kept_for_backward(lambda: module(*inputs))
    module.roi_chunk = 4
    assert bytes_kept_for_backward(lambda: module(*inputs)) < everything / 5


def test_chunks_inside_a_stage_that_is_recomputed_too():
    module, (proposals, rois) = make_module(roi_chunk=2), make_inputs()
    rois.requires_grad_()
    module(proposals, rois).square().sum().backward()
    expected, rois.grad = rois.grad, None
    checkpoint(module, proposals, rois, use_reentrant=False).square().sum().backward()
    torch.testing.assert_close(rois.grad, expected)


@VARIANTS
def test_bfloat16_autocast(dynamic):
    module = make_module(dynamic_cbam=dynamic).eval()
    proposals, rois = make_inputs()
    expected = module(proposals, rois)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(proposals, rois.bfloat16())
        assert module._weigh(proposals, rois.bfloat16()).dtype == torch.bfloat16
    assert (out.float() - expected).abs().max() < 0.15  # of values of size 1
    out.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("key", ["NUM_CBAM", "NUM_TRANSFORMER", "ROI_CHUNK"])
def test_negative_numbers_name_the_key(key):
    with pytest.raises(ValueError, match=f"DUAL_ATTENTION.{key} must be 0 or more, got -1"):
        make_module(**{key.lower(): -1})


def test_unknown_activation_names_the_key():
    with pytest.raises(ValueError, match="MODEL.SparseRCNN.ACTIVATION.*'glu'"):
        FeedForward(8, 8, activation="glu")


# ---- in the detector


def set_dual_attention(cfg, num_cbam, num_transformer, dynamic=True):
    cfg.MODEL.SparseRCNN.INTERACTION = "dual_attention"
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.NUM_CBAM = num_cbam
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.NUM_TRANSFORMER = num_transformer
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.DYNAMIC_CBAM = dynamic
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 5
    return cfg


@pytest.mark.parametrize("layers", BRANCHES.values(), ids=BRANCHES.keys())
def test_detectors_with_any_branch_train_and_detect(tiny_cfg, make_input, layers):
    model = build_model(set_dual_attention(tiny_cfg, *layers))
    inputs = [make_input((64, 96), [[5, 5, 40, 40]], [1]), make_input((64, 64))]
    losses = model(inputs)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        results = model.eval()(inputs)
    assert all(result["instances"].scores.isfinite().all() for result in results)


@VARIANTS
def test_the_heads_initialisation_leaves_norms_alone(tiny_cfg, dynamic):
    model = build_model(set_dual_attention(tiny_cfg, 2, 1, dynamic))
    norms = [m for m in model.head.modules() if isinstance(m, nn.LayerNorm)]
    assert all(norm.weight.eq(1).all() and norm.bias.eq(0).all() for norm in norms)


def test_state_dict_holds_weights_alone(tiny_cfg):
    model = build_model(set_dual_attention(tiny_cfg, 2, 1))
    parameters = {name for name, _ in model.head.named_parameters()}
    assert set(model.head.state_dict()) == parameters

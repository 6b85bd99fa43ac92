import copy

import pytest
import torch
from detectron2.modeling import build_backbone, build_model

from sparsercnn.modeling import add_res5_attention, build_danet_attention

KINDS = pytest.mark.parametrize("kind", ["parameter_free", "projected"])


@KINDS
@pytest.mark.parametrize("name", ["build_resnet_fpn_backbone", "build_resnet_backbone"])
def test_res5_ends_with_both_attentions_and_weights_keep_their_names(tiny_cfg, kind, name):
    tiny_cfg.MODEL.BACKBONE.NAME = name
    plain = build_backbone(tiny_cfg).eval()
    assert add_res5_attention(copy.deepcopy(plain), tiny_cfg).state_dict().keys() == (
        plain.state_dict().keys()
    )
    tiny_cfg.MODEL.RESNETS.RES5_ATTENTION = kind
    attentive = add_res5_attention(copy.deepcopy(plain), tiny_cfg)
    added = set(attentive.state_dict()) - set(plain.state_dict())
    assert set(plain.state_dict()) < set(attentive.state_dict()) or kind == "parameter_free"
    assert all(".dual_attention." in f".{name}" for name in added)

    bottom_up = [getattr(x, "bottom_up", x) for x in (plain, attentive)]
    image = torch.randn(1, 3, 64, 96)
    before, after = (x(image) for x in bottom_up)
    torch.testing.assert_close(after["res4"], before["res4"])
    assert torch.equal(after["res5"], before["res5"]) == (kind == "projected")
    position, channel = build_danet_attention("parameter_free", 512)
    if kind == "parameter_free":
        expected = position(before["res5"]) + channel(before["res5"]) - before["res5"]
        torch.testing.assert_close(after["res5"], expected)


def test_a_backbone_without_res5_is_refused(tiny_cfg):
    tiny_cfg.MODEL.RESNETS.RES5_ATTENTION = "projected"
    tiny_cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    tiny_cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    with pytest.raises(ValueError, match=r"RES5_ATTENTION is .projected., but"):
        add_res5_attention(build_backbone(tiny_cfg), tiny_cfg)


@KINDS
def test_sparse_rcnn_trains_with_attention_on_res5(tiny_cfg, make_input, kind):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_resnet_attention_fpn_backbone"
    tiny_cfg.MODEL.RESNETS.RES5_ATTENTION = kind
    model = build_model(tiny_cfg)
    assert hasattr(model.backbone.bottom_up.res5, "dual_attention")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs = [make_input((64, 96), [[5, 5, 40, 40]], [1]), make_input((64, 64))]
    loss = sum(model(inputs).values())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    optimizer.step()
    gammas = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == (2 if kind == "projected" else 0)
    assert all(gamma != 0 for gamma in gammas)


@pytest.mark.parametrize("aggregation", ["sum", "mssa_adp"])
def test_other_necks_read_res5_with_attention(tiny_cfg, aggregation):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_resnet_attention_fpn_backbone"
    tiny_cfg.MODEL.FPN.AGGREGATION = aggregation
    tiny_cfg.MODEL.RESNETS.RES5_ATTENTION = "projected"
    backbone = build_backbone(tiny_cfg)
    gamma = backbone.bottom_up.res5.dual_attention.position.gamma
    backbone(torch.randn(2, 3, 64, 64))["p5"].square().sum().backward()
    assert gamma.grad.abs() > 0

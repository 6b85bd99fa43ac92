import re

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from sparsercnn.engine.param_groups import build_param_groups, describe_layer_decay
from sparsercnn.errors import ConfigError


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.SOLVER.merge_from_list(["BASE_LR", 1.0, "WEIGHT_DECAY", 0.1, "LAYER_DECAY", 0.5])
    return tiny_cfg


def settings(cfg):
    """Name of each parameter -> (rate, decay), and the model."""
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        model = build_model(cfg)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = build_param_groups(cfg, model)
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(found)
    assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}
    return found, model


def vit(cfg, depth):
    cfg.MODEL.BACKBONE.NAME = "build_vit_backbone"
    cfg.MODEL.VIT.merge_from_list(["DEPTH", depth, "EMBED_DIM", 16, "NUM_HEADS", 2])
    cfg.MODEL.VIT.GLOBAL_BLOCKS = [0]


def test_rates_of_a_vit_by_hand(cfg):
    """Two blocks: L = 2, so that patches and positions have 0.5^3, the blocks 0.5^2 and 0.5."""
    vit(cfg, 2)
    rates = {name: rate for name, (rate, _) in settings(cfg)[0].items()}
    expected = {
        "backbone.bottom_up.pos_embed": 0.125,
        "backbone.bottom_up.patch_embed.proj.weight": 0.125,
        "backbone.bottom_up.blocks.0.norm1.weight": 0.25,
        "backbone.bottom_up.blocks.0.mlp.fc2.bias": 0.25,
        "backbone.bottom_up.blocks.1.attn.qkv.weight": 0.5,
        "backbone.level2.0.weight": 1.0,
        "head.head_series.0.norm1.weight": 1.0,
        "proposals.init_proposal_features.weight": 1.0,
    }
    assert {name: rates[name] for name in expected} == expected


def test_rates_of_vit_b():
    """As published for ViTDet: 0.7^13 for patches and positions, ..., 0.7 for the last block."""
    from sparsercnn.engine.setup import get_config

    cfg = get_config("backbones/sparsercnn.vit_base_mae.300pro.3x")
    cfg.SOLVER.BASE_LR = 1.0
    found, model = settings(cfg)
    name = "backbone.bottom_up.blocks.{}.attn.proj.weight"
    for i in range(12):
        assert found[name.format(i)][0] == pytest.approx(0.7 ** (12 - i))
    assert found["backbone.bottom_up.pos_embed"] == (pytest.approx(0.009688901), 0.0)
    rows = describe_layer_decay(cfg, model).splitlines()[2:]
    assert len(rows) == 13 + 2
    cells = [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]
    assert cells[0][0] == "0" and cells[0][-1] == "0.009689"
    assert cells[12][:2] == ["12", "blocks.11"] and cells[12][-2:] == ["0.7", "0.7"]
    assert cells[13][0] == "neck" and cells[14][0] == "head" and cells[14][-1] == "1"


def test_rows_of_several_rates_have_the_lowest_and_the_highest(cfg):
    vit(cfg, 2)
    cfg.SOLVER.NEW_LAYERS_MULTIPLIER = 8.0
    model = settings(cfg)[1]
    new = ["backbone.bottom_up.blocks.0.norm1.weight", "backbone.level2.0.weight"]
    rows = [re.split(" {2,}", x) for x in describe_layer_decay(cfg, model, new).splitlines()]
    factors = {row[0]: row[-2:] for row in rows[2:]}
    assert factors["1"] == ["0.25 to 2"] * 2 and factors["2"] == ["0.5"] * 2
    assert factors["neck"] == ["1 to 8"] * 2 and factors["head"] == ["1"] * 2


def test_rates_of_detectron2s_resnet_and_what_is_frozen(cfg):
    """ResNet-18: eight blocks."""
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    found, model = settings(cfg)
    rate = {name: rate for name, (rate, _) in found.items()}
    assert "backbone.bottom_up.stem.conv1.weight" not in rate
    assert rate["backbone.bottom_up.res2.0.conv1.weight"] == 0.5**8
    assert rate["backbone.bottom_up.res3.0.shortcut.weight"] == 0.5**6
    assert rate["backbone.bottom_up.res5.1.conv2.norm.bias"] == 0.5
    assert rate["backbone.fpn_lateral5.weight"] == 1
    assert "frozen" in describe_layer_decay(cfg, model).splitlines()[2]


def test_rates_below_the_neck(cfg):
    """Of a ResNet-18's eight blocks, each half as fast as the next one."""
    cfg.SOLVER.merge_from_list(["BACKBONE_MULTIPLIER", 0.5, "BOTTOM_UP_MULTIPLIER", 0.1])
    rate = {name: rate for name, (rate, _) in settings(cfg)[0].items()}
    assert rate["backbone.bottom_up.res5.1.conv2.weight"] == pytest.approx(0.5 * 0.1 * 0.5)
    assert rate["backbone.bottom_up.res2.0.conv1.weight"] == pytest.approx(0.5 * 0.1 * 0.5**8)
    assert rate["backbone.fpn_lateral5.weight"] == 0.5
    assert rate["head.head_series.0.norm1.weight"] == 1


def test_rates_of_queryinst_are_those_of_mmdetection():
    """A tenth for the ResNet, the full rate for everything else."""
    from sparsercnn.engine.setup import get_config

    for name in ("queryinst.res50.100pro.1x", "queryinst.res50.100pro.msca_adp.1x"):
        found, _ = settings(get_config(f"queryinst/{name}"))
        slow = {x for x, (rate, _) in found.items() if rate == pytest.approx(1e-5)}
        assert slow == {x for x in found if x.startswith("backbone.bottom_up.")}
        assert {found[x][0] for x in found.keys() - slow} == {1e-4}


def test_rates_of_timms_convnext_and_swin(cfg):
    """12 blocks each; a downsampling is of the block that follows it."""
    pytest.importorskip("timm")
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    net = "backbone.bottom_up.net."
    expected = {
        "convnext_atto": {
            "stem_0.weight": 13, "stages_0.blocks.0.gamma": 12, "stages_1.downsample.1.weight": 10,
            "stages_1.blocks.0.mlp.fc1.weight": 10, "stages_3.blocks.1.conv_dw.bias": 1,
        },
        "swin_tiny_patch4_window7_224": {
            "patch_embed.proj.weight": 13, "layers_0.blocks.0.norm1.weight": 12,
            "layers_1.downsample.reduction.weight": 10, "layers_3.blocks.1.mlp.fc2.bias": 1,
        },
    }  # fmt: skip
    for name, powers in expected.items():
        cfg.MODEL.TIMM.NAME = name
        found, _ = settings(cfg)
        for weight, power in powers.items():
            assert found[net + weight][0] == 0.5**power, weight


def test_positions_norms_and_scales_have_no_decay(cfg):
    pytest.importorskip("timm")
    vit(cfg, 1)
    assert settings(cfg)[0]["backbone.bottom_up.pos_embed"][1] == 0
    assert settings(cfg)[0]["backbone.bottom_up.blocks.0.norm1.weight"][1] == 0.1
    cfg.SOLVER.NO_DECAY_NORM_BIAS = True
    decays = {name: decay for name, (_, decay) in settings(cfg)[0].items()}
    spared = {name for name in decays if decays[name] == 0}
    assert "backbone.level2.1.weight" in spared
    assert {x for x in decays if x.startswith("backbone.bottom_up")} - spared == {
        "backbone.bottom_up.patch_embed.proj.weight",
        "backbone.bottom_up.blocks.0.attn.qkv.weight",
        "backbone.bottom_up.blocks.0.attn.proj.weight",
        "backbone.bottom_up.blocks.0.mlp.fc1.weight",
        "backbone.bottom_up.blocks.0.mlp.fc2.weight",
    }
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    for name, weight in (
        ("swin_tiny_patch4_window7_224", "layers_0.blocks.0.attn.relative_position_bias_table"),
        ("convnext_atto", "stages_0.blocks.0.gamma"),
    ):
        cfg.MODEL.TIMM.NAME = name
        assert settings(cfg)[0][f"backbone.bottom_up.net.{weight}"][1] == 0
    cfg.SOLVER.NO_DECAY_NORM_BIAS = False
    assert settings(cfg)[0]["backbone.bottom_up.net.stages_0.blocks.0.gamma"][1] == 0.1


def test_a_backbone_without_layers_is_refused(cfg):
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="LAYER_DECAY needs the layers .* Linear does not say"):
        build_param_groups(cfg, model)
    cfg.SOLVER.LAYER_DECAY = 1.0
    assert len(build_param_groups(cfg, model)) == 1

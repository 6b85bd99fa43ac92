"""Weights of other people for the backbone of a training."""

import logging

import pytest
import torch
from detectron2.modeling import build_model

from sparsercnn.conversion import ConversionError, convert_file
from sparsercnn.conversion.pretrained import load_pretrained, pretrained_source
from sparsercnn.engine.adaptation import adapt_weights
from sparsercnn.errors import CheckpointError

DIM = 16


def weights_of_vit(depth=2, patch=8, grid=4, tokens=1):
    """Names and shapes as MAE's authors and timm have them, in float32."""
    shapes = {
        "cls_token": (1, 1, DIM), "pos_embed": (1, tokens + grid**2, DIM),
        "patch_embed.proj.weight": (DIM, 3, patch, patch), "patch_embed.proj.bias": (DIM,),
        "norm.weight": (DIM,), "norm.bias": (DIM,),
    }  # fmt: skip
    for i in range(depth):
        for layer, shape in {
            "norm1": (DIM,), "norm2": (DIM,), "attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM),
            "mlp.fc1": (4 * DIM, DIM), "mlp.fc2": (DIM, 4 * DIM),
        }.items():  # fmt: skip
            shapes[f"blocks.{i}.{layer}.weight"] = shape
            shapes[f"blocks.{i}.{layer}.bias"] = shape[:1]
    return {name: torch.randn(shape) for name, shape in shapes.items()}


OF_MAE = {
    "mask_token": (1, 1, 8), "decoder_pos_embed": (1, 17, 8), "decoder_embed.weight": (8, DIM),
    "decoder_blocks.0.attn.qkv.weight": (24, 8), "decoder_norm.bias": (8,),
    "decoder_pred.weight": (192, 8),
}  # fmt: skip
OF_TIMM = {"head.weight": (10, DIM), "head.bias": (10,), "fc_norm.weight": (DIM,)}


def with_extras(weights, extras):
    return weights | {name: torch.randn(shape) for name, shape in extras.items()}


@pytest.fixture
def vit_cfg(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_vit_backbone"
    tiny_cfg.MODEL.VIT.merge_from_list(
        [
            *("PATCH_SIZE", 8, "EMBED_DIM", DIM, "DEPTH", 2, "NUM_HEADS", 2, "PRETRAIN_SIZE", 32),
            *("GLOBAL_BLOCKS", [0]),
        ]
    )
    return tiny_cfg


@pytest.fixture
def model(vit_cfg):
    return build_model(vit_cfg)


@pytest.mark.parametrize("layout, extras", [("mae", OF_MAE), ("timm", OF_TIMM)])
def test_convert_and_pretrained_give_the_same_backbone(tmp_path, vit_cfg, model, layout, extras):
    theirs = weights_of_vit()
    path, converted = str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pth")
    content = with_extras(theirs, extras)
    torch.save({"model": content} if layout == "mae" else content, path)
    result = convert_file(path, converted, layout)
    assert result.dropped["other tokens"] == 1
    assert sum(result.dropped.values()) == 3 + len(extras)
    ours = torch.load(converted, weights_only=True)["model"]
    own = {k: x.shape for k, x in model.state_dict().items() if k.startswith("backbone.bottom_up.")}
    assert {k: x.shape for k, x in ours.items()} == own
    positions = ours["backbone.bottom_up.pos_embed"]
    assert torch.equal(positions, theirs["pos_embed"][:, 1:])
    for source in (path, converted):
        vit_cfg.MODEL.VIT.PRETRAINED = source
        left = load_pretrained(vit_cfg, model)
        state = model.state_dict()
        assert all(torch.equal(state[k], x) for k, x in ours.items())
        assert set(left) == set(state) - set(ours)


def test_positions_and_patches_of_another_size_are_made_to_fit(tmp_path, vit_cfg, model):
    """Twice as large in both: of patches of 16 pixels, 7 x 7, in a model of three blocks."""
    theirs = weights_of_vit(depth=3, patch=16, grid=7, tokens=0)
    theirs["pos_embed"][:] = 2.5
    torch.save(theirs, tmp_path / "theirs.pth")
    vit_cfg.MODEL.VIT.PRETRAINED = str(tmp_path / "theirs.pth")
    load_pretrained(vit_cfg, model)
    vit = model.backbone.bottom_up
    torch.testing.assert_close(vit.pos_embed, torch.full((1, 16, DIM), 2.5))
    assert torch.equal(vit.blocks[1].mlp.fc2.weight, theirs["blocks.1.mlp.fc2.weight"])
    # The same through MODEL.WEIGHTS, whose names have a prefix.
    convert_file(str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pth"), "mae")
    saved = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    adapted = adapt_weights(model.state_dict(), saved, {}, {})
    assert [x.detail for x in adapted.values()] == [
        "positions 7 x 7, made 4 x 4",
        "patches 16 x 16, made 8 x 8",
    ]
    for name, x in adapted.items():
        torch.testing.assert_close(x.value, model.state_dict()[name])


def test_a_vit_of_another_kind_or_size_is_refused(tmp_path, vit_cfg, model):
    vit_cfg.MODEL.VIT.PRETRAINED = path = str(tmp_path / "x.pth")

    def load(weights):
        torch.save(weights, path)
        return load_pretrained(vit_cfg, model)

    with pytest.raises(ConversionError, match=r"blocks\.0\.ls1\.gamma"):
        load(with_extras(weights_of_vit(), {"blocks.0.ls1.gamma": (DIM,)}))
    with pytest.raises(CheckpointError, match=r"the file lacks blocks\.1\..*sizes in MODEL.VIT"):
        load(weights_of_vit(depth=1))
    with pytest.raises(CheckpointError, match="has no plain ViT"):
        load({"stem.weight": torch.zeros(1)})
    broken = weights_of_vit()
    broken["blocks.0.norm1.bias"][0] = float("nan")
    with pytest.raises(CheckpointError, match=r"infinite or NaN: blocks\.0\.norm1\.bias"):
        load(broken)
    vit_cfg.MODEL.VIT.PRETRAINED = str(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"none.pth of .*MODEL.VIT.PRETRAINED does not exist"):
        load_pretrained(vit_cfg, model)


def test_a_converted_vit_converts_back(tmp_path):
    theirs = weights_of_vit()
    torch.save(theirs, tmp_path / "a.pth")
    convert_file(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), "timm")
    convert_file(str(tmp_path / "b.pth"), str(tmp_path / "c.pth"), "timm", reverse=True)
    back = torch.load(tmp_path / "c.pth", weights_only=True)
    assert set(theirs) - set(back) == {"cls_token", "norm.weight", "norm.bias"}
    assert torch.equal(back["blocks.1.attn.qkv.bias"], theirs["blocks.1.attn.qkv.bias"])


@pytest.fixture
def timm_cfg(tiny_cfg):
    pytest.importorskip("timm")
    tiny_cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    tiny_cfg.MODEL.TIMM.NAME = "convnext_atto"
    return tiny_cfg


@pytest.mark.parametrize("authors", [False, True])
def test_files_of_timm_and_of_a_models_authors(tmp_path, timm_cfg, authors):
    """ConvNeXt's authors have other names than timm, which knows them."""
    import timm

    whole = timm.create_model("convnext_atto")
    weights = content = whole.state_dict()
    if authors:
        renamed = {}
        for name, x in weights.items():
            if name.startswith("stem."):
                name = name.replace("stem.", "downsample_layers.0.")
            name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv")
            parts = name.split(".")
            if "downsample" in parts:
                name = f"downsample_layers.{parts[1]}.{'.'.join(parts[3:])}"
            renamed[name.replace("mlp.fc", "pwconv").replace("head.fc.", "head.")] = x
        renamed = {k.replace("head.norm.", "norm."): x for k, x in renamed.items()}
        content = {"model": renamed}
    timm_cfg.MODEL.TIMM.PRETRAINED = str(tmp_path / "x.pth")
    torch.save(content, tmp_path / "x.pth")
    model = build_model(timm_cfg)
    left = load_pretrained(timm_cfg, model)
    net = model.backbone.bottom_up.net
    assert torch.equal(net.stem_0.weight, weights["stem.0.weight"])
    assert torch.equal(
        net.stages_2.blocks[3].mlp.fc1.weight, weights["stages.2.blocks.3.mlp.fc1.weight"]
    )
    assert not any(name.startswith("backbone.bottom_up") for name in left)
    assert "backbone.fpn_lateral2.weight" in left


def test_a_file_of_another_model_is_refused(tmp_path, timm_cfg):
    import timm

    timm_cfg.MODEL.TIMM.PRETRAINED = str(tmp_path / "x.pth")
    torch.save(timm.create_model("convnext_femto").state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"does not fit the backbone: .*MODEL.TIMM.NAME"):
        load_pretrained(timm_cfg, build_model(timm_cfg))


def test_timms_download_is_asked_for_by_the_key_alone(timm_cfg, monkeypatch, caplog):
    """Nothing is asked of a network before, and what fails is said with the remedy."""
    import timm

    asked = []
    create = timm.create_model

    def create_model(name, pretrained=False, **options):
        if pretrained:
            asked.append(name)
            raise OSError("no network here\nmore")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    model = build_model(timm_cfg)
    assert asked == []
    timm_cfg.MODEL.TIMM.PRETRAINED = "timm"
    with pytest.raises(CheckpointError, match="no weights of convnext_atto: no network here Down"):
        load_pretrained(timm_cfg, model)
    assert asked == ["convnext_atto"]


def test_other_pixels_than_the_weights_have_seen_are_said(tmp_path, timm_cfg, caplog):
    import timm

    timm_cfg.MODEL.TIMM.PRETRAINED = str(tmp_path / "x.pth")
    torch.save(timm.create_model("convnext_atto").state_dict(), tmp_path / "x.pth")
    model = build_model(timm_cfg)
    with caplog.at_level(logging.WARNING):
        load_pretrained(timm_cfg, model)
        assert not caplog.records
        timm_cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
        load_pretrained(timm_cfg, model)
    assert "MODEL.PIXEL_STD is [1.0, 1.0, 1.0], but timm's weights" in caplog.text


def test_the_source_is_that_of_the_backbone_in_use(tiny_cfg):
    tiny_cfg.MODEL.TIMM.PRETRAINED, tiny_cfg.MODEL.VIT.PRETRAINED = "a", "b"
    sources = {"build_timm_backbone": "a", "build_vit_backbone": "b", "build_resnet_backbone": ""}
    for name, source in sources.items():
        tiny_cfg.MODEL.BACKBONE.NAME = name
        assert pretrained_source(tiny_cfg) == source

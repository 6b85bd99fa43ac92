import copy
import sys

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from torch import nn

from sparsercnn import add_sparsercnn_config
from sparsercnn.conversion import LAYOUTS, convert
from sparsercnn.errors import ConfigError
from sparsercnn.inference.optimization import optimize
from sparsercnn.modeling.activation_checkpoint import checkpoint_activations
from sparsercnn.modeling.backbones.layers import blocks_of
from sparsercnn.modeling.backbones.timm_backbone import TimmBackbone

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def convnext():
    return TimmBackbone(name="convnext_atto").eval()


@pytest.fixture
def timm_cfg(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    tiny_cfg.MODEL.TIMM.NAME = "convnext_atto"
    return tiny_cfg


@pytest.mark.parametrize(
    "name", ["convnext_atto", "swin_tiny_patch4_window7_224", "resnet10t", "mobilenetv3_small_050"]
)
def test_maps_are_those_that_are_declared_for_images_of_any_size(name):
    with torch.device("meta"):
        backbone = TimmBackbone(name=name)
        maps = backbone(torch.zeros(1, 3, 96, 160))
    shapes = backbone.output_shape()
    assert list(maps) == list(shapes) == ["res2", "res3", "res4", "res5"]
    assert [s.stride for s in shapes.values()] == [4, 8, 16, 32]
    for key, shape in shapes.items():
        expected = (1, shape.channels, 96 // shape.stride, 160 // shape.stride)
        assert maps[key].shape == expected
    assert None not in backbone.original_names.values()


def test_a_resnet_with_detectron2s_weights_gives_the_same_pyramid_and_gradients(timm_cfg):
    """With frozen batch norms and frozen stages, in training, and joined for inference."""
    timm_cfg.MODEL.BACKBONE.FREEZE_AT, timm_cfg.MODEL.FPN.NORM = 2, ""
    timm_cfg.MODEL.RESNETS.merge_from_list(["NORM", "FrozenBN", "DEPTH", 50])
    timm_cfg.MODEL.RESNETS.merge_from_list(["RES2_OUT_CHANNELS", 256, "STRIDE_IN_1X1", False])
    timm_cfg.MODEL.TIMM.merge_from_list(["NAME", "resnet50", "NORM", "FrozenBN"])
    theirs = build_backbone(timm_cfg)
    timm_cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    ours = build_backbone(timm_cfg)
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.2, 0.4)
    weights = theirs.bottom_up.net.state_dict()
    rules = LAYOUTS["torchvision"].rules(list(weights), "bottom_up.", None)
    weights = convert(weights, rules).weights
    weights |= {k: x for k, x in theirs.state_dict().items() if not k.startswith("bottom_up.")}
    ours.load_state_dict(weights)

    image = torch.randn(2, 3, 64, 96)
    found, expected = theirs(image), ours(image)
    for key in expected:
        assert torch.equal(found[key], expected[key]), key
    sum(x.square().mean() for x in found.values()).backward()
    sum(x.square().mean() for x in expected.values()).backward()
    pairs = [("layer2.0.conv1", "res3.0.conv1"), ("layer4.2.conv3", "res5.2.conv3")]
    for their_name, our_name in pairs:
        theirs_grad = theirs.bottom_up.net.get_submodule(their_name).weight.grad
        ours_grad = ours.bottom_up.get_submodule(our_name).weight.grad
        torch.testing.assert_close(theirs_grad, ours_grad)
    number = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (theirs, ours)]
    assert number[0] == number[1]

    joined = optimize(theirs)
    assert not any(isinstance(x, FrozenBatchNorm2d) for x in joined.modules())
    with torch.no_grad():
        found = joined(image)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("aggregation", ["sum", "msca_adp"])
@pytest.mark.parametrize("interaction", ["dynamic_conv", "dual_attention"])
def test_every_neck_and_interaction_trains_on_it(timm_cfg, make_input, aggregation, interaction):
    timm_cfg.MODEL.FPN.AGGREGATION = aggregation
    timm_cfg.MODEL.FPN.NORM = ""
    timm_cfg.MODEL.SparseRCNN.INTERACTION = interaction
    model = build_model(timm_cfg)
    losses = model([make_input((50, 70), [[5, 5, 40, 40]], [1])])
    sum(losses.values()).backward()
    assert [n for n, p in model.backbone.bottom_up.named_parameters() if p.grad is None] == []


def test_danet_reads_a_dilated_model(danet_cfg):
    danet_cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    danet_cfg.MODEL.TIMM.merge_from_list(
        ["NAME", "convnext_atto", "OUTPUT_STRIDE", 8, "OUT_FEATURES", ["res5"]]
    )
    danet_cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res5"]
    model = build_model(danet_cfg)
    assert model.backbone.output_shape()["res5"].stride == model.backbone.size_divisibility == 8
    image = torch.randint(0, 256, (3, 50, 67), dtype=torch.uint8)
    labels = torch.randint(0, 4, (50, 67))
    assert model([{"image": image, "sem_seg": labels}])["loss_sem_seg"] > 0
    assert model.eval()([{"image": image}])[0]["sem_seg"].shape == (4, 50, 67)


def test_the_cascade_trains_on_it(repository, make_input):
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(repository / "configs/quickstart/cascade_mask_rcnn.yaml"))
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"])
    cfg.merge_from_list(["MODEL.TIMM.NAME", "convnext_atto", "MODEL.FPN.OUT_CHANNELS", 32])
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 64])
    cfg.MODEL.DEVICE, cfg.INPUT.MASK_FORMAT = "cpu", "bitmask"
    model = build_model(cfg)
    example = make_input((64, 64), [[5, 5, 40, 40]], [1])
    example["instances"].gt_masks = BitMasks(torch.ones(1, 64, 64))
    with EventStorage():
        sum(model([example]).values()).backward()
    assert model.backbone.bottom_up.net.stem_0.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("norm", ["", "SyncBN"])
def test_frozen_stages_and_their_norms_stay(norm):
    backbone = TimmBackbone(name="resnet10t", freeze_at=2, norm=norm).train()
    frozen = {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    trained = {n.split(".")[1] for n, p in backbone.named_parameters() if p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"} and trained == {"layer2", "layer3", "layer4"}
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 64, 64))
    changed = {n.split(".")[1] for n, x in backbone.state_dict().items() if not x.equal(before[n])}
    assert changed == {"layer2", "layer3", "layer4"}


def test_norms_become_frozen_ones_with_or_without_an_activation():
    for name in ("resnet10t", "mobilenetv3_small_050"):
        plain = TimmBackbone(name=name).eval()
        frozen = TimmBackbone(name=name, norm="FrozenBN").train()
        assert not any(isinstance(x, nn.BatchNorm2d) for x in frozen.modules())
        state = plain.state_dict()
        frozen.load_state_dict({k: state[k] for k in frozen.state_dict()})
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            for key, x in plain(image).items():
                torch.testing.assert_close(frozen(image)[key], x, rtol=1e-4, atol=1e-4)


def test_drop_path_reaches_the_blocks():
    with torch.device("meta"):
        backbone = TimmBackbone(name="convnext_atto", drop_path=0.3)
    rates = [b.drop_path.drop_prob for b in backbone.blocks() if hasattr(b.drop_path, "drop_prob")]
    assert len(rates) == 11 and rates[-1] == pytest.approx(0.3) and rates == sorted(rates)


@pytest.mark.parametrize(
    "name, number",
    [("convnext_atto", 12), ("swin_tiny_patch4_window7_224", 12), ("resnet10t", 4)],
)
def test_blocks_are_the_residual_ones(name, number):
    with torch.device("meta"):
        backbone = TimmBackbone(name=name)
    assert len(blocks_of(backbone)) == number
    assert "Block" in type(backbone.blocks()[0]).__name__ or name == "resnet10t"


def test_blocks_of_an_attention_neck_are_blocks_too(timm_cfg):
    timm_cfg.MODEL.FPN.AGGREGATION = "mssa"
    backbone = build_backbone(timm_cfg)
    neck = [getattr(backbone, f"fpn_attention{level}") for level in (2, 3, 4, 5)]
    assert blocks_of(backbone) == backbone.bottom_up.blocks() + neck


def test_a_model_whose_blocks_are_not_known_is_refused():
    model = nn.Module()
    with torch.device("meta"):
        model.backbone = TimmBackbone(name="regnetx_002")
    message = "CHECKPOINT.BACKBONE needs the residual blocks of timm's regnetx_002.* not known"
    with pytest.raises(ConfigError, match=message):
        checkpoint_activations(model, backbone=True)


def test_recomputation_keeps_results_and_gradients(convnext):
    model, other = (nn.ModuleDict({"backbone": copy.deepcopy(convnext).train()}) for _ in "ab")
    model.backbone, other.backbone = model["backbone"], other["backbone"]
    checkpoint_activations(other, backbone=True)
    image = torch.randn(1, 3, 64, 64)
    for m in (model, other):
        sum(x.square().mean() for x in m.backbone(image).values()).backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "convnext_tin"}, "timm does not have. The nearest names are convnext_tiny"),
        ({"name": "convnext_atto.none"}, "of which timm has .*convnext_atto.d2_in1k"),
        ({"name": "vit_tiny_patch16_224"}, "set MODEL.BACKBONE.NAME to build_vit_backbone"),
        ({"name": "vgg11", "drop_path": 0.1}, "vgg11 has no drop path: set MODEL.TIMM.DROP_PATH"),
        (
            {"name": "swin_tiny_patch4_window7_224", "output_stride": 8},
            "no dilated stages: set MODEL.TIMM.OUTPUT_STRIDE to 32",
        ),
        ({"name": "convnext_atto", "out_features": ["res1"]}, "has res2, res3, res4, res5"),
        ({"name": "convnext_atto", "out_features": ["res3", "res2"]}, "begin with the finest"),
        ({"name": "convnext_atto", "norm": "GN"}, "MODEL.TIMM.NORM is 'GN'"),
    ],
)
def test_what_a_model_cannot_do_names_the_key(options, message):
    with pytest.raises(ConfigError, match=message), torch.device("meta"):
        TimmBackbone(**options)


def test_a_pyramid_needs_strides_that_double(timm_cfg):
    timm_cfg.MODEL.TIMM.OUTPUT_STRIDE = 16
    with pytest.raises(ConfigError, match=r"\[4, 8, 16, 16\]. Set MODEL.TIMM.OUTPUT_STRIDE to 32"):
        build_backbone(timm_cfg)
    timm_cfg.MODEL.TIMM.merge_from_list(["OUTPUT_STRIDE", 32, "OUT_FEATURES", ["res4", "res5"]])
    with pytest.raises(ConfigError, match=r"maps of MODEL.TIMM.OUT_FEATURES, \['res4', 'res5'\]"):
        build_backbone(timm_cfg)


def test_without_timm_the_extra_is_named(timm_cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"timm cannot be imported.*\[backbones\]"):
        build_backbone(timm_cfg)

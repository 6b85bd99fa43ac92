import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone, build_model
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from detectron2.structures import BitMasks, PolygonMasks
from detectron2.utils.events import EventStorage

from sparsercnn import add_sparsercnn_config
from sparsercnn.modeling.activation_checkpoint import checkpoint_activations
from sparsercnn.modeling.necks.attention_fpn import AGGREGATIONS, MSCA, MSSA
from sparsercnn.modeling.necks.pooled_attention import (
    GridPooling,
    WindowPooling,
)

C = 8
ATTENTION = [name for name in AGGREGATIONS if name != "sum"]
FORMS = pytest.mark.parametrize("form", [MSSA, MSCA])


class Stub(Backbone):
    """Maps of strides 4 to 32 with few channels, whose sides are those that a ResNet gives."""

    def __init__(self):
        super().__init__()
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(3, 4, 1) for _ in range(4))

    def output_shape(self):
        return {f"res{i}": ShapeSpec(channels=4, stride=2**i) for i in range(2, 6)}

    def forward(self, x):
        x = x[:, :, ::4, ::4]
        maps = {}
        for i, conv in enumerate(self.convs):
            maps[f"res{i + 2}"] = conv(x[:, :, :: 2**i, :: 2**i])
        return maps


def make_pyramid(form, adaptive=False):
    names = ["res2", "res3", "res4", "res5"]
    return form(bottom_up=Stub(), in_features=names, out_channels=C, adaptive=adaptive)


def make_cfg(aggregation):
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_attention_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.FPN.AGGREGATION = aggregation
    return cfg


# ---- sum


def test_sum_is_the_fpn_of_detectron2_to_the_bit():
    cfg = make_cfg("sum")
    ours = build_backbone(cfg)
    theirs = build_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 64, 96)
    for name, level in theirs(x).items():
        assert torch.equal(ours(x)[name], level), name


@pytest.mark.parametrize("aggregation", ATTENTION)
def test_lateral_weights_carry_over_from_an_fpn(aggregation):
    fpn = build_backbone(make_cfg("sum")).state_dict()
    result = build_backbone(make_cfg(aggregation)).load_state_dict(fpn, strict=False)
    assert {name.split(".")[0] for name in result.missing_keys} == {
        f"fpn_attention{i}" for i in range(2, 6)
    }
    assert {name.split(".")[0] for name in result.unexpected_keys} == {
        f"fpn_output{i}" for i in range(2, 6)
    }


# ---- pooling


def test_number_of_tokens():
    """Of an image of 800 x 1216; in windows of 64 pixels, half a row of them is left over."""
    pyramid = make_pyramid(MSSA)
    for level, size in {2: (200, 304), 3: (100, 152), 4: (50, 76), 5: (25, 38)}.items():
        pooling = getattr(pyramid, f"fpn_attention{level}").attention.pooling
        assert pooling(torch.zeros(1, 1, *size)).shape[1] == 12 * 19 + 25 * 38
        assert GridPooling()(torch.zeros(1, 1, *size)).shape[1] == 49


def test_windows_of_32_pixels_leave_nothing_over():
    """On a padded image: the mean of their tokens is that of the map."""
    pyramid = make_pyramid(MSCA)
    for level in range(2, 6):
        x = torch.randn(1, C, 96 >> level, 160 >> level)
        smaller = getattr(pyramid, f"fpn_attention{level}").attention.pooling.windows[1]
        tokens = WindowPooling((smaller,))(x)
        assert tokens.shape[1] == 3 * 5
        torch.testing.assert_close(tokens.mean(1), x.mean((2, 3)))


# ---- pyramid


def laterals(pyramid, x):
    maps = pyramid.bottom_up(x)
    return [getattr(pyramid, f"fpn_lateral{i}")(maps[f"res{i}"]) for i in range(2, 6)]


def up(x, finer):
    return F.interpolate(x, size=finer.shape[2:], mode="nearest")


@pytest.mark.parametrize("adaptive", [False, True])
def test_levels_of_mssa(randomize, adaptive):
    pyramid = randomize(make_pyramid(MSSA, adaptive))
    x = torch.randn(1, 3, 70, 100)
    l2, l3, l4, l5 = laterals(pyramid, x)
    p5 = pyramid.fpn_attention5(l5)
    p4 = pyramid.fpn_attention4(l4 + up(p5, l4))
    p3 = pyramid.fpn_attention3(l3 + up(p4, l3))
    p2 = pyramid.fpn_attention2(l2 + up(p3, l2))
    expected = {"p2": p2, "p3": p3, "p4": p4, "p5": p5, "p6": p5[:, :, ::2, ::2]}
    torch.testing.assert_close(pyramid(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adaptive", [False, True])
def test_levels_of_msca(randomize, adaptive):
    pyramid = randomize(make_pyramid(MSCA, adaptive))
    x = torch.randn(1, 3, 70, 100)
    l2, l3, l4, l5 = laterals(pyramid, x)
    p5 = pyramid.fpn_attention5(l5, l5)
    p4 = l4 + pyramid.fpn_attention4(up(p5, l4), l4)
    p3 = l3 + pyramid.fpn_attention3(up(p4, l3), l3)
    p2 = l2 + pyramid.fpn_attention2(up(p3, l2), l2)
    expected = {"p2": p2, "p3": p3, "p4": p4, "p5": p5, "p6": p5[:, :, ::2, ::2]}
    torch.testing.assert_close(pyramid(x), expected, rtol=1e-4, atol=1e-4)


@FORMS
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (33, 61), (64, 96), (100, 40), (800, 1333)])
def test_any_size_of_image(form, adaptive, size):
    pyramid = make_pyramid(form, adaptive)
    with torch.no_grad():
        levels = pyramid(torch.randn(1, 3, *size))
    assert list(levels) == list(pyramid.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    for name, shape in pyramid.output_shape().items():
        sides = tuple(math.ceil(side / shape.stride) for side in size)
        assert levels[name].shape == (1, shape.channels, *sides), name
        assert levels[name].isfinite().all()
    assert pyramid.size_divisibility == 32


@FORMS
def test_an_image_is_alone_in_its_batch(randomize, form):
    pyramid = randomize(make_pyramid(form))
    x = torch.randn(3, 3, 64, 96)
    together = pyramid(x)
    for i in range(3):
        alone = pyramid(x[i : i + 1])
        for name, level in alone.items():
            torch.testing.assert_close(level[0], together[name][i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("aggregation", ATTENTION)
def test_gradient_reaches_every_parameter(aggregation):
    backbone = build_backbone(make_cfg(aggregation))
    levels = backbone(torch.randn(2, 3, 64, 96))
    sum(level.square().sum() for level in levels.values()).backward()
    # A key's or a query's gradient is tiny at first, but not zero.
    without = [
        name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()
    ]
    assert without == []


@FORMS
def test_initial_weights(form):
    pyramid = form(bottom_up=Stub(), in_features=["res2", "res3"], out_channels=256)
    block = pyramid.fpn_attention2
    assert block.mlp.linear1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.attention.kv.weight.std().item() == pytest.approx(0.02, rel=0.02)
    bound = math.sqrt(6 / (4 + 256))
    lateral = pyramid.fpn_lateral2.weight
    assert 0.97 * bound < lateral.abs().max() <= bound
    assert lateral.var().item() == pytest.approx(bound**2 / 3, rel=0.1)
    biases = [p for name, p in pyramid.named_parameters() if name.endswith("bias")]
    assert not any(p.any() for p in biases if p not in set(pyramid.bottom_up.parameters()))


@FORMS
@pytest.mark.parametrize("adaptive", [False, True])
def test_half_precision(randomize, form, adaptive):
    pyramid = randomize(make_pyramid(form, adaptive))
    x = torch.randn(2, 3, 64, 96)
    expected = pyramid(x)
    with torch.autocast("cpu", torch.bfloat16):
        levels = pyramid(x)
        loss = sum(level.float().square().mean() for level in levels.values())
    loss.backward()
    for name, level in levels.items():
        error = (level.float() - expected[name]).square().mean() / expected[name].square().mean()
        assert error.sqrt() < 0.03, name
    assert all(p.grad.isfinite().all() for p in pyramid.parameters())


@FORMS
def test_activation_checkpointing_covers_the_blocks(form):
    model = torch.nn.ModuleDict({"backbone": make_pyramid(form)})
    x = torch.randn(1, 3, 64, 96)

    def gradients():
        model.zero_grad()
        sum(level.square().sum() for level in model["backbone"](x).values()).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    expected = gradients()
    checkpoint_activations(model, backbone=True)
    torch.testing.assert_close(gradients(), expected)


# ---- errors


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("AGGREGATION", "mean", "MODEL.FPN.AGGREGATION must be one of sum, mssa, .*'mean'"),
        ("FUSE_TYPE", "avg", "MODEL.FPN.FUSE_TYPE is 'avg'"),
        ("OUT_CHANNELS", 30, "MODEL.FPN.OUT_CHANNELS must be a multiple of 4.*30"),
        ("IN_FEATURES", [], r"MODEL.FPN.IN_FEATURES is \[\]; it must name maps of"),
        ("IN_FEATURES", ["res2", "res9"], "IN_FEATURES .*'res9'.*RESNETS.OUT_FEATURES"),
        ("IN_FEATURES", ["res2", "res4"], r"MODEL.FPN.IN_FEATURES .* are \[4, 16\]"),
    ],
)
def test_errors_name_the_key(key, value, message):
    cfg = make_cfg("mssa")
    cfg.MODEL.FPN[key] = value
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)


# ---- detectors


@pytest.fixture
def cascade_cfg(repository):
    """The quickstart's Cascade Mask R-CNN with 16 channels."""
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(repository / "configs/quickstart/cascade_mask_rcnn.yaml"))
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.RPN.CONV_DIMS = [16]
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 10
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return cfg


def make_masked_input(make_input, size, boxes, classes):
    x = make_input(size, boxes, classes)
    triangles = [[[x1, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes]
    x["instances"].gt_masks = PolygonMasks(triangles)
    return x


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_cascade_mask_rcnn_trains_and_infers(cascade_cfg, make_input, aggregation):
    cascade_cfg.MODEL.FPN.AGGREGATION = aggregation
    model = build_model(cascade_cfg)
    inputs = [
        make_masked_input(make_input, (64, 96), [[4, 4, 40, 50], [50, 10, 90, 60]], [0, 2]),
        make_masked_input(make_input, (50, 40), [], []),
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with EventStorage():
        losses = model(inputs)
    assert losses["loss_mask"] > 0 and losses["loss_box_reg_stage2"].isfinite()
    sum(losses.values()).backward()
    optimizer.step()
    laterals = [name for name in before if "fpn_lateral" in name]
    parameters = dict(model.named_parameters())
    assert laterals and not any(torch.equal(parameters[n], before[n]) for n in laterals)

    model.eval()
    with torch.no_grad():
        detections = model([{"image": x["image"], "height": 100, "width": 80} for x in inputs])
    found = detections[0]["instances"]
    assert len(found) > 0
    assert BitMasks(found.pred_masks).tensor.shape == (len(found), 100, 80)


def test_sparse_rcnn_takes_the_neck(tiny_cfg, make_input):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_resnet_attention_fpn_backbone"
    tiny_cfg.MODEL.FPN.AGGREGATION = "msca_adp"
    model = build_model(tiny_cfg)
    sum(model([make_input((64, 96), [[5, 5, 40, 40]], [1])]).values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.eval()
    with torch.no_grad():
        assert len(model([make_input((64, 96))])[0]["instances"]) > 0

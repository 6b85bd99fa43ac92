import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from sparsercnn import add_sparsercnn_config
from sparsercnn.modeling.backbones.dilated_resnet import make_dilated_resnet


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("dilations, stride", [((2, 4), 8), ((1, 2), 16), ((1, 1), 32)])
def test_output_stride(depth, dilations, stride):
    resnet = make_dilated_resnet(
        depth=depth,
        norm="BN",
        out_features=["res5"],
        res4_dilation=dilations[0],
        res5_dilation=dilations[1],
        stem_channels=8,
        res2_channels=8,
        width_per_group=4,
    )
    assert resnet.output_shape()["res5"].stride == stride
    with torch.no_grad():
        out = resnet.eval()(torch.randn(1, 3, 64, 96))["res5"]
    assert out.shape == (1, 64, 64 // stride, 96 // stride)
    for stage, dilation in zip((resnet.res4, resnet.res5), dilations, strict=True):
        for block in stage:
            assert block.conv2.dilation == (dilation, dilation)


def test_multi_grid_multiplies_the_dilation_of_each_block():
    options = {"depth": 50, "norm": "BN", "out_features": ["res5"]}
    with torch.device("meta"):
        resnet = make_dilated_resnet(**options, res5_multi_grid=(1, 2, 4))
    assert [block.conv2.dilation[0] for block in resnet.res5] == [4, 8, 16]
    assert {block.conv2.dilation[0] for block in resnet.res4} == {2}
    with pytest.raises(ValueError, match=r"RES5_MULTI_GRID is \[1, 2\].* 3 blocks"):
        make_dilated_resnet(**options, res5_multi_grid=(1, 2))


def resnet_cfg(depth, name):
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res5"]
    return cfg


@pytest.mark.parametrize("depth", [18, 50, 101])
def test_weights_have_the_names_and_shapes_of_detectron2s_resnet(depth):
    shapes = []
    for name in ("build_resnet_backbone", "build_dilated_resnet_backbone"):
        cfg = resnet_cfg(depth, name)
        with torch.device("meta"):
            shapes.append({k: v.shape for k, v in build_backbone(cfg).state_dict().items()})
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("depth", [18, 50])
def test_without_dilation_it_is_detectron2s_resnet(depth):
    cfg = resnet_cfg(depth, "build_resnet_backbone")
    expected = build_backbone(cfg).eval()
    cfg.MODEL.BACKBONE.NAME = "build_dilated_resnet_backbone"
    actual = build_backbone(cfg).eval()
    actual.load_state_dict(expected.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, actual = expected(image), actual(image)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_dilation_sees_what_striding_saw():
    """A 3x3 convolution with dilation 2 on all positions, against one on every second position."""
    resnet = make_dilated_resnet(
        depth=18, norm="", out_features=["res4"], stem_channels=4, res2_channels=4
    )
    block = resnet.res4[1]
    assert block.shortcut is None
    x = torch.randn(1, 16, 12, 12)
    strided = type(block)(16, 16, norm="", dilation=1)
    strided.load_state_dict(block.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(
            block(x)[..., ::2, ::2], strided(x[..., ::2, ::2]), rtol=1e-4, atol=1e-5
        )


def test_a_pickle_of_the_model_zoo_loads(tmp_path):
    """Such a file names the weights without a prefix, and has the classifier too."""
    import pickle

    source = resnet_cfg(18, "build_resnet_backbone")
    weights = {k: v.numpy() + 1 for k, v in build_backbone(source).state_dict().items()}
    weights |= {
        "fc.weight": weights["stem.conv1.weight"],
        "fc.bias": weights["res2.0.conv1.weight"],
    }
    path = tmp_path / "R-18.pkl"
    content = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    backbone = build_backbone(resnet_cfg(18, "build_dilated_resnet_backbone"))
    DetectionCheckpointer(nn.ModuleDict({"backbone": backbone})).load(str(path))
    for name, value in backbone.state_dict().items():
        assert (value.numpy() == weights[name]).all(), name


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("DEPTH", 20, r"RESNETS.DEPTH is 20; it must be one of \[18, 34, 50, 101, 152\]"),
        ("RES5_DILATION", 2, r"RES4_DILATION 2 with RES5_DILATION 2.*\(2, 4\)"),
        ("RES5_MULTI_GRID", [1, 2, 4], "RES5_MULTI_GRID is .* depth 18 has 2 blocks"),
        ("DEFORM_ON_PER_STAGE", [False, True, True, True], "DEFORM_ON_PER_STAGE"),
    ],
)
def test_errors_of_the_backbone_name_the_key(danet_cfg, key, value, message):
    danet_cfg.MODEL.RESNETS[key] = value
    with pytest.raises(ValueError, match=message):
        build_backbone(danet_cfg)

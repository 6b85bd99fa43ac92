"""A model prepared for inference finds what the model itself finds."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from sparsercnn import add_sparsercnn_config
from sparsercnn.engine.setup import load_config
from sparsercnn.inference import optimize
from sparsercnn.modeling import SparseRCNNWithTTA

_DETECTORS = [
    "sparsercnn",
    "dual_attention",
    "dynamic_sparsercnn",
    "sparsercnn.msca_adp",
    "sparsercnn.res5_attention",
    "cascade_mask_rcnn",
    "queryinst",
]


@pytest.fixture
def build(repository):
    def build(name, *options):
        """A quickstart's model whose norms are as if it were trained."""
        cfg = get_cfg()
        add_sparsercnn_config(cfg)
        cfg.merge_from_file(str(repository / f"configs/quickstart/{name}.yaml"))
        cfg.merge_from_list(list(options))
        model = build_model(cfg).eval()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.1)
        return model

    return build


@pytest.fixture
def inputs():
    def make(height, width):
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        return {"image": image, "height": height, "width": width}

    return [make(64, 96), make(96, 70)]


@torch.inference_mode()
def detect(model, inputs):
    return [output["instances"] for output in model(inputs)]


def assert_same_features(found, expected):
    """Maps equal but for rounding, which is another one on each kind of processor."""
    for name, features in expected.items():
        error = (found[name] - features).abs().max() / features.abs().max()
        assert error <= 2e-5, name


def assert_same_detections(found, expected, pixels=2e-2, score=2e-4):
    """The order of nearly equal scores may differ. Untrained stages amplify differences in rounding
    about twenty times as much as trained ones, where they stay below 1e-3 pixels and 1e-5."""
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 0
        vectors = [
            torch.cat(
                [
                    x.pred_boxes.tensor / pixels,
                    x.scores[:, None] / score,
                    1e9 * x.pred_classes[:, None],
                ],
                dim=1,
            ).double()
            for x in (ours, theirs)
        ]
        distance = torch.cdist(*vectors, p=float("inf"))
        assert distance.amin(0).max() <= 1
        assert distance.amin(1).max() <= 1


def test_a_norm_is_folded():
    """conv 3 x, norm (x - 2) / sqrt(4) * 6 + 1: together 9 x - 5."""
    conv = Conv2d(1, 1, 1, bias=False, norm=FrozenBatchNorm2d(1, eps=0.0))
    conv.weight.data.fill_(3.0)
    conv.norm.running_mean.fill_(2.0)
    conv.norm.running_var.fill_(4.0)
    conv.norm.weight.fill_(6.0)
    conv.norm.bias.fill_(1.0)
    folded = optimize(nn.Sequential(conv))[0]
    assert folded.norm is None
    assert folded.weight.item() == 9
    assert folded.bias.item() == -5
    x = torch.rand(1, 1, 2, 2)
    torch.testing.assert_close(folded(x), 9 * x - 5)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_is_one_chain(stride):
    block = BottleneckBlock(8, 8 * stride, bottleneck_channels=4, stride=stride, norm="BN").eval()
    x = torch.randn(2, 8, 7, 9)
    given = x.clone()
    with torch.inference_mode():
        torch.testing.assert_close(optimize(nn.Sequential(block))(x), block(x))
    assert torch.equal(x, given)


@pytest.mark.parametrize("name", _DETECTORS)
def test_fuse_finds_the_same(build, inputs, name):
    model = build(name)
    expected = detect(model, inputs)
    fused = optimize(model, "fuse")
    assert_same_detections(detect(fused, inputs), expected)
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        assert_same_features(fused.backbone(images), model.backbone(images))
    norms = [x for x in fused.modules() if isinstance(x, (nn.BatchNorm2d, FrozenBatchNorm2d))]
    assert not norms
    if name in ("cascade_mask_rcnn", "queryinst"):
        masks = [x.pred_masks.float().mean() for x in expected]
        found = [x.pred_masks.float().mean() for x in detect(fused, inputs)]
        torch.testing.assert_close(found, masks, rtol=0, atol=1e-3)


def test_fuse_segments_the_same(build, inputs):
    """Logits of about 2; the softmax of position attention amplifies differences in rounding."""
    model = build("danet")
    fused = optimize(model, "fuse")
    with torch.inference_mode():
        for ours, theirs in zip(fused(inputs), model(inputs), strict=True):
            torch.testing.assert_close(ours["sem_seg"], theirs["sem_seg"], rtol=0, atol=2e-3)


def test_frozen_norms_are_folded_too(build, inputs):
    model = build("sparsercnn", "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.RESNETS.DEPTH", 50,
                  "MODEL.RESNETS.RES2_OUT_CHANNELS", 256)  # fmt: skip
    optimized = optimize(model)
    assert not [x for x in optimized.modules() if isinstance(x, FrozenBatchNorm2d)]
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        assert_same_features(optimized.backbone(images), model.backbone(images))
    assert_same_detections(detect(optimized, inputs), detect(model, inputs))


def test_no_region_is_no_error(build, inputs):
    model = build("cascade_mask_rcnn", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.999)
    assert [len(x) for x in detect(optimize(model), inputs)] == [0, 0]


def test_the_given_model_stays_as_it_is(build, inputs):
    model = build("sparsercnn").train()
    before = copy.deepcopy(model.state_dict())
    optimized = optimize(model, "fuse", "bfloat16")
    assert model.training
    assert not optimized.training
    assert all(x.requires_grad for x in model.head.parameters())
    detect(optimized, inputs)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_none_is_the_model_itself(build):
    model = build("sparsercnn")
    assert optimize(model, "none") is model


@pytest.mark.parametrize("mode", ["none", "fuse"])
def test_bfloat16_keeps_boxes_and_scores_in_float32(build, inputs, mode):
    model = build("sparsercnn", "MODEL.SparseRCNN.NMS_THRESH_TEST", 0.0)
    half = optimize(model, mode, "bfloat16")
    assert half.backbone.bottom_up.stem.conv1.weight.dtype == torch.bfloat16
    stage = half.head.head_series[0]
    assert stage.linear1.weight.dtype == torch.bfloat16
    assert stage.class_logits.weight.dtype == stage.reg_module[0].weight.dtype == torch.float32
    with torch.inference_mode():  # without the clipping that drops boxes out of the image
        found, expected = (x(inputs, do_postprocess=False) for x in (half, model))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.pred_boxes.tensor.dtype == ours.scores.dtype == torch.float32
        # Three digits of the features, and so of the scores; equal would mean float32.
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0.3, atol=0.02)
        assert not torch.equal(ours.scores, theirs.scores)


def test_compile_finds_the_same(build, inputs, monkeypatch):
    compiled = []
    compile_module = nn.Module.compile

    def trace_only(module, **options):
        compiled.append(type(module).__name__)
        compile_module(module, backend="eager", **options)

    monkeypatch.setattr(nn.Module, "compile", trace_only)
    model = build("sparsercnn", "MODEL.SparseRCNN.NUM_HEADS", 2)
    assert_same_detections(
        detect(optimize(model, "compile"), inputs[:1]), detect(model, inputs[:1])
    )
    assert sorted(compiled) == ["FPN", "IterativeHead"]


def test_augmented_testing_uses_the_prepared_model(build, tiny_cfg):
    model = optimize(SparseRCNNWithTTA(tiny_cfg, build("sparsercnn")))
    assert model.model.backbone.bottom_up.stem.conv1.norm is None


@pytest.mark.parametrize(
    "options, message",
    [
        (["TEST.OPTIMIZE", "fast"], "TEST.OPTIMIZE is 'fast'; it must be none, fuse or compile"),
        (["TEST.DTYPE", "int8"], "TEST.DTYPE is 'int8'; it must be float32, bfloat16 or float16"),
        (["TEST.DTYPE", "float16"], "TEST.DTYPE float16 needs a GPU"),
    ],
)
def test_a_wrong_key_is_an_error_at_the_start(repository, options, message):
    config = str(repository / "configs/quickstart/sparsercnn.yaml")
    with pytest.raises(ValueError, match=message):
        load_config(config, options, register=False)

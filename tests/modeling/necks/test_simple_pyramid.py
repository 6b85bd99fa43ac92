import pytest
import torch
from detectron2.modeling import build_backbone, build_model

from sparsercnn.errors import ConfigError
from sparsercnn.modeling.backbones.vit import ViT
from sparsercnn.modeling.necks import SimpleFeaturePyramid


@pytest.mark.parametrize("patch_size", [4, 8, 16, 32])
def test_strides_are_4_to_64_whatever_the_patches(patch_size):
    vit = ViT(patch_size=patch_size, embed_dim=32, depth=1, num_heads=2, pretrain_size=64)
    pyramid = SimpleFeaturePyramid(vit, 24)
    assert pyramid.size_divisibility == 32
    with torch.no_grad():
        maps = pyramid(torch.randn(1, 3, 64, 96))
    shapes = pyramid.output_shape()
    assert list(maps) == list(shapes) == ["p2", "p3", "p4", "p5", "p6"]
    for name, x in maps.items():
        stride = shapes[name].stride
        assert x.shape == (1, 24, -(-64 // stride), -(-96 // stride))
    assert [s.stride for s in shapes.values()] == [4, 8, 16, 32, 64]


def test_the_levels_have_vitdets_layers():
    """Of stride 16: two deconvolutions to C / 4 with a norm between them; one; none; pooling."""
    pyramid = SimpleFeaturePyramid(ViT(embed_dim=32, depth=1, num_heads=2), 24)
    names = [[type(x).__name__ for x in getattr(pyramid, f"level{i}")] for i in (2, 3, 4, 5)]
    end = ["Conv2d", "ChannelNorm", "Conv2d", "ChannelNorm"]
    up = "ConvTranspose2d"
    assert names == [[up, "ChannelNorm", "GELU", up, *end], [up, *end], end, ["MaxPool2d", *end]]
    assert pyramid.level2[3].weight.shape == (16, 8, 2, 2)
    assert pyramid.level2[4].weight.shape == (24, 8, 1, 1) and pyramid.level2[4].bias is None


def test_norms_are_over_channels():
    pyramid = SimpleFeaturePyramid(ViT(embed_dim=32, depth=1, num_heads=2), 24)
    with torch.no_grad():
        maps = pyramid(torch.randn(1, 3, 32, 32))
    assert maps["p4"].mean(1).abs().max() < 1e-5
    torch.testing.assert_close(
        maps["p4"].var(1, unbiased=False), torch.ones(1, 2, 2), atol=1e-3, rtol=0
    )


def test_patches_of_no_power_of_two_are_refused():
    vit = ViT(patch_size=14, embed_dim=16, depth=1, num_heads=2, pretrain_size=28)
    with pytest.raises(ConfigError, match="not 14. Set MODEL.VIT.PATCH_SIZE to 16"):
        SimpleFeaturePyramid(vit, 8)


@pytest.fixture
def vit_cfg(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_vit_backbone"
    tiny_cfg.MODEL.VIT.merge_from_list(
        [
            *("PATCH_SIZE", 8, "EMBED_DIM", 32, "DEPTH", 2, "NUM_HEADS", 2, "PRETRAIN_SIZE", 64),
            *("WINDOW_SIZE", 4, "GLOBAL_BLOCKS", [1]),
        ]
    )
    return tiny_cfg


@pytest.mark.parametrize("interaction", ["dynamic_conv", "dual_attention"])
def test_a_detector_pads_its_images_and_trains_all_of_it(vit_cfg, make_input, interaction):
    vit_cfg.MODEL.SparseRCNN.INTERACTION = interaction
    model = build_model(vit_cfg)
    assert isinstance(model.backbone, SimpleFeaturePyramid)
    inputs = [make_input((50, 70), [[5, 5, 40, 40]], [1]), make_input((64, 40), [], [])]
    assert model.preprocess_images(inputs)[0].tensor.shape[2:] == (64, 96)
    sum(model(inputs).values()).backward()
    without = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    assert without == []


def test_the_channels_are_those_of_the_config(vit_cfg):
    vit_cfg.MODEL.FPN.OUT_CHANNELS = 40
    assert build_backbone(vit_cfg).output_shape()["p3"].channels == 40


def test_a_segmentor_has_the_levels_that_its_head_reads(vit_cfg, danet_cfg):
    danet_cfg.MODEL.BACKBONE.NAME = "build_vit_backbone"
    danet_cfg.MODEL.VIT = vit_cfg.MODEL.VIT
    danet_cfg.MODEL.FPN.OUT_CHANNELS = 8
    for names, made in ((["p3"], ["p3"]), (["p6"], ["p5", "p6"])):
        danet_cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = names
        model = build_model(danet_cfg)
        assert list(model.backbone.output_shape()) == made
        labels = torch.randint(0, 4, (64, 64))
        inputs = [{"image": torch.randint(0, 256, (3, 64, 64)), "sem_seg": labels}] * 2
        sum(model(inputs).values()).backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
    danet_cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res4"]
    with pytest.raises(ConfigError, match=r"IN_FEATURES is \['res4'\]; it must name maps .*'p6'"):
        build_model(danet_cfg)

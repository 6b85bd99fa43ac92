import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from sparsercnn.errors import ConfigError
from sparsercnn.modeling.backbones.vit import (
    Attention,
    ViT,
    ViTBlock,
    resample_patches,
    resample_positions,
)

SMALL = {"embed_dim": 16, "depth": 4, "num_heads": 2, "patch_size": 8, "pretrain_size": 32}


def test_with_the_same_weights_it_is_timms_vit():
    timm = pytest.importorskip("timm")
    options = {"class_token": False, "global_pool": "avg", "fc_norm": False, "num_classes": 0}
    theirs = timm.create_model("test_vit", img_size=64, **options).eval()
    ours = ViT(embed_dim=64, depth=6, num_heads=2, mlp_ratio=3, pretrain_size=64).eval()
    weights = {k: x for k, x in theirs.state_dict().items() if not k.startswith("norm.")}
    ours.load_state_dict(weights)
    theirs.norm = torch.nn.Identity()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_features(image)
        found = ours(image)["patches"]
    assert found.shape == (2, 64, 4, 4)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected)


def test_a_window_as_large_as_the_map_is_global_attention():
    windowed = ViTBlock(8, 2, 2.0, window_size=6)
    everywhere = ViTBlock(8, 2, 2.0)
    everywhere.load_state_dict(windowed.state_dict())
    x = torch.randn(2, 6, 6, 8)
    torch.testing.assert_close(windowed(x), everywhere(x))


def test_windows_attend_within_themselves_and_the_rest_of_the_last_is_zeros():
    """A map of 3 x 5 in windows of 2: of 2 x 3 windows, the last row and column are padded."""
    block = ViTBlock(8, 2, 2.0, window_size=2)
    x = torch.randn(1, 3, 5, 8)
    found = block._attend(x)
    padded = F.pad(x, (0, 0, 0, 1, 0, 1))
    for i in range(3):
        for j in range(5):
            top, left = i // 2 * 2, j // 2 * 2
            window = padded[:, top : top + 2, left : left + 2].reshape(1, 4, 8)
            expected = block.attn(window)[0, (i - top) * 2 + j - left]
            torch.testing.assert_close(found[0, i, j], expected)


def test_a_change_outside_of_the_window_is_seen_through_a_global_block_alone():
    image = torch.randn(1, 3, 64, 64)
    other = image.clone()
    other[..., 48:, 48:] += 1
    for blocks, differs in (((), False), ((1,), True)):
        model = ViT(**SMALL, window_size=4, global_blocks=blocks).eval()
        with torch.no_grad():
            here, there = (model(x)["patches"][..., :4, :4] for x in (image, other))
        assert torch.equal(here, there) is not differs


def test_attention_by_hand():
    """One head whose queries, keys and values are the input."""
    attention = Attention(2, 1)
    with torch.no_grad():
        attention.qkv.weight.copy_(torch.eye(2).repeat(3, 1))
        attention.proj.weight.copy_(torch.eye(2))
        attention.qkv.bias.zero_()
        attention.proj.bias.zero_()
    found = attention(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    same = math.exp(1 / math.sqrt(2))
    share = same / (same + 1)
    expected = torch.tensor([[[share, 1 - share], [1 - share, share]]])
    torch.testing.assert_close(found, expected)


def test_positions_are_those_of_the_table_on_its_own_grid_and_smooth_on_others():
    model = ViT(**SMALL)
    torch.nn.init.zeros_(model.patch_embed.proj.weight)
    model.blocks = torch.nn.ModuleList()
    with torch.no_grad():
        row = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1)
        model.pos_embed.copy_(row.expand(1, 16, 16))
        own = model(torch.zeros(1, 3, 32, 32))["patches"]
        wide = model(torch.zeros(1, 3, 32, 64))["patches"]
        high = model(torch.zeros(1, 3, 64, 32))["patches"]
    assert torch.equal(own[0, 0, :, 0], torch.arange(4.0))
    torch.testing.assert_close(wide[0, 0], torch.arange(4.0)[:, None].expand(4, 8))
    assert (high[0, 0, 1:, 0] > high[0, 0, :-1, 0]).all() and high.shape[2:] == (8, 4)


def test_resampled_patches_give_larger_patches_what_the_old_gave_to_the_originals():
    weight = torch.randn(5, 3, 4, 4)
    patch = torch.randn(1, 3, 4, 4)
    larger = F.interpolate(patch, (8, 8), mode="bilinear")
    found = F.conv2d(larger, resample_patches(weight, 8))
    torch.testing.assert_close(found, F.conv2d(patch, weight), rtol=1e-3, atol=1e-4)
    assert torch.allclose(resample_patches(weight, 4), weight, atol=1e-5)


def test_resampled_positions_are_those_of_a_smooth_surface():
    row = torch.arange(6.0)[:, None].expand(6, 6).reshape(1, 36, 1)
    found = resample_positions(row, 144).view(12, 12)
    inner = torch.arange(12.0)[3:9, None] / 2 - 0.25
    # PyTorch's kernel does not give a slope back exactly.
    torch.testing.assert_close(found[3:9, 2:10], inner.expand(6, 8), rtol=0, atol=0.05)
    torch.testing.assert_close(resample_positions(row, 36), row)


@pytest.mark.parametrize("freeze_at, trained", [(0, 4), (1, 4), (2, 3), (3, 2), (5, 0)])
def test_stages_of_freeze_at_are_quarters_of_the_blocks(freeze_at, trained):
    model = ViT(**SMALL, freeze_at=freeze_at)
    assert model.pos_embed.requires_grad == (freeze_at == 0)
    assert [b.norm1.weight.requires_grad for b in model.blocks] == [False] * (4 - trained) + [
        True
    ] * trained


def test_drop_path_rises_and_drops_whole_images_in_training_alone():
    model = ViT(**SMALL, drop_path=0.3)
    assert [b.drop_path.p for b in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    block = ViTBlock(8, 2, 2.0, drop_path=1.0)
    x = torch.randn(3, 2, 2, 8)
    assert torch.equal(block.train()(x), x)
    assert not torch.equal(block.eval()(x), x)


def test_what_does_not_fit_names_the_keys():
    with pytest.raises(ConfigError, match="NUM_HEADS 3 does not divide MODEL.VIT.EMBED_DIM 16"):
        ViT(**SMALL | {"num_heads": 3})
    with pytest.raises(ConfigError, match=r"GLOBAL_BLOCKS has \[4\]; the 4 blocks .* 0 to 3"):
        ViT(**SMALL, global_blocks=(1, 4))


def test_from_config_reads_every_key(tiny_cfg):
    tiny_cfg.MODEL.VIT.merge_from_list(
        [
            *("PATCH_SIZE", 8, "EMBED_DIM", 24, "DEPTH", 2, "NUM_HEADS", 3, "MLP_RATIO", 2.0),
            *("PRETRAIN_SIZE", 64, "WINDOW_SIZE", 5, "GLOBAL_BLOCKS", [1], "DROP_PATH", 0.2),
        ]
    )
    tiny_cfg.MODEL.BACKBONE.FREEZE_AT = 1
    model = ViT(tiny_cfg, ShapeSpec(channels=3))
    assert model.output_shape()["patches"] == ShapeSpec(channels=24, stride=8)
    assert model.pos_embed.shape == (1, 64, 24) and not model.pos_embed.requires_grad
    assert [b.window_size for b in model.blocks] == [5, 0]
    assert model.blocks[0].mlp.fc1.out_features == 48
    assert model.blocks[1].attn.num_heads == 3 and model.blocks[1].drop_path.p == 0.2

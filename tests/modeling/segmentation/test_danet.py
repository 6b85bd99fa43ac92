"""The head and its norms, in detectron2's segmentor."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone, build_model
from torch import nn

import sparsercnn.modeling.norm as norm_module
from sparsercnn.modeling.segmentation.danet import DANetHead
from sparsercnn.modeling.segmentation.danet_attention import build_danet_attention

KINDS = pytest.mark.parametrize("kind", ["parameter_free", "projected"])
PLACE = (8, 12)  # of the head's features below


def make_head(kind="projected", refine=None, **options):
    position, channel = build_danet_attention(kind, 8)
    options = {
        "in_feature": "res5",
        "in_channels": 6,
        "stride": 8,
        "num_classes": 3,
        "conv_dims": 8,
        "position_attention": position,
        "channel_attention": channel,
        "refine": kind == "projected" if refine is None else refine,
        **options,
    }
    return DANetHead(**options)


def make_input(size, num_classes=4):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    return {"image": image, "sem_seg": torch.randint(0, num_classes, size)}


# ---- norms


@pytest.mark.parametrize("norm", ["auto", "SyncBN", "FrozenBN", "GN", ""])
def test_models_of_every_norm_train_on_the_cpu(danet_cfg, norm):
    danet_cfg.MODEL.RESNETS.NORM = norm if norm != "GN" else "BN"
    danet_cfg.MODEL.SEM_SEG_HEAD.NORM = norm
    danet_cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    model = build_model(danet_cfg)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    frozen = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert bool(frozen) == (norm == "FrozenBN")
    sum(model([make_input((32, 32))] * 2).values()).backward()


def test_several_gpus_get_synchronised_norms(danet_cfg, monkeypatch):
    monkeypatch.setattr(norm_module.comm, "get_world_size", lambda: 2)
    danet_cfg.MODEL.DEVICE = "cuda"
    backbone = build_backbone(danet_cfg)  # without being moved there
    head = DANetHead(danet_cfg, backbone.output_shape())
    for module in (backbone, head):
        assert any(isinstance(x, nn.SyncBatchNorm) for x in module.modules())
        assert not any(isinstance(x, nn.BatchNorm2d) for x in module.modules())


# ---- the head


@KINDS
def test_losses_are_cross_entropies_at_the_images_size(kind):
    head = make_head(kind)
    features = {"res5": torch.randn(2, 6, *PLACE)}
    targets = torch.randint(0, 3, (2, 61, 90))
    targets[:, :20] = 255
    none, losses = head(features, targets)
    assert none is None
    assert list(losses) == ["loss_sem_seg", "loss_position", "loss_channel"][: len(losses)]
    assert len(losses) == (3 if kind == "projected" else 1)
    position, channel = (
        head.position_branch(features["res5"]),
        head.channel_branch(features["res5"]),
    )
    maps = {"loss_sem_seg": head.predictor(position + channel)}
    if kind == "projected":
        maps["loss_position"] = head.position_predictor(position)
        maps["loss_channel"] = head.channel_predictor(channel)
    for name, logits in maps.items():
        logits = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=False)
        logits = logits[..., :61, :90].permute(0, 2, 3, 1)[targets != 255]
        log_probabilities = logits.log_softmax(-1)
        chosen = log_probabilities.gather(1, targets[targets != 255][:, None])
        torch.testing.assert_close(losses[name], -chosen.mean(), rtol=1e-4, atol=1e-5)


def test_all_classes_start_about_equally_likely():
    head = make_head()
    _, losses = head({"res5": torch.randn(2, 6, *PLACE)}, torch.randint(0, 3, (2, 64, 96)))
    for loss in losses.values():
        assert loss.item() == pytest.approx(math.log(3), abs=0.1)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_ignored_pixels_change_nothing(share):
    features = {"res5": torch.randn(2, 6, *PLACE)}
    targets = torch.randint(0, 3, (2, 64, 96))
    targets[:, : int(64 * share)] = 255
    for ignore_value in (255, 7):
        torch.manual_seed(1)
        head = make_head(ignore_value=ignore_value)
        with_value = torch.where(targets == 255, ignore_value, targets)
        _, losses = head(features, with_value)
        if ignore_value == 255:
            first = losses
        else:
            assert all(torch.equal(losses[name], first[name]) for name in losses)
    sum(losses.values()).backward()
    for parameter in head.parameters():
        assert parameter.grad.isfinite().all()
        assert share < 1 or not parameter.grad.any()
    assert all((loss == 0) == (share == 1) for loss in losses.values())


def test_losses_have_their_weight():
    features, targets = {"res5": torch.randn(2, 6, *PLACE)}, torch.randint(0, 3, (2, 64, 96))
    results = []
    for weight in (1.0, 0.25):
        torch.manual_seed(1)
        results.append(make_head(loss_weight=weight)(features, targets)[1])
    for name, loss in results[0].items():
        torch.testing.assert_close(results[1][name], 0.25 * loss)


def losses_by_hand(head):
    """Five pixels whose probabilities of their class are 1/2, 1/4, 1/8, 1/16 and 1/32, and three
    without a class; features that are the logits already."""
    probabilities = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 0.5, 0.5, 0.5])
    others = (1 - probabilities) / 2
    logits = torch.stack([probabilities, others, others]).log().view(1, 3, 1, 8)
    targets = torch.tensor([[[0, 0, 0, 0, 0, 255, 255, 255]]])
    return head._loss(logits, targets).item() / math.log(2)


@pytest.mark.parametrize(
    "share, expected",
    [
        (0.2, 5),  # one of five pixels with a class: 1/32
        (0.4, (5 + 4) / 2),
        (0.5, (5 + 4 + 3) / 3),  # two and a half are three
        (0.01, 5),  # at least one
        (1.0, (5 + 4 + 3 + 2 + 1) / 5),
    ],
)
def test_the_hardest_pixels_are_mined_among_those_with_a_class(share, expected):
    options = {"stride": 1, "loss_type": "hard_pixel_mining", "loss_top_k": share}
    assert losses_by_hand(make_head(**options)) == pytest.approx(expected, rel=1e-5)
    half = make_head(**options, loss_weight=0.5)
    assert losses_by_hand(half) == pytest.approx(0.5 * expected, rel=1e-5)
    assert losses_by_hand(make_head(stride=1, loss_top_k=share)) == pytest.approx(3, rel=1e-5)


def test_mining_is_that_of_detectron2s_deeplab_where_all_pixels_have_a_class():
    deeplab = pytest.importorskip("detectron2.projects.deeplab.loss")
    head = make_head(stride=1, loss_type="hard_pixel_mining", loss_top_k=0.25)
    logits, targets = torch.randn(2, 3, 6, 8), torch.randint(0, 3, (2, 6, 8))
    reference = deeplab.DeepLabCE(ignore_label=255, top_k_percent_pixels=0.25)
    torch.testing.assert_close(head._loss(logits, targets), reference(logits, targets))


def test_mining_is_zero_without_any_class_and_teaches_the_mined_pixels_alone():
    head = make_head(stride=1, loss_type="hard_pixel_mining", loss_top_k=0.5)
    logits = torch.randn(1, 3, 2, 4, requires_grad=True)
    loss = head._loss(logits, torch.full((1, 2, 4), 255))
    loss.backward()
    assert loss == 0 and not logits.grad.any()

    targets = torch.tensor([[[0, 1, 2, 0], [255, 255, 1, 2]]])
    logits.grad = None
    head._loss(logits, targets).backward()
    taught = logits.grad.abs().sum(1) > 0
    pixels = F.cross_entropy(logits, targets, ignore_index=255, reduction="none")
    assert torch.equal(taught, pixels >= pixels.flatten().sort().values[-3])


@KINDS
def test_losses_follow_the_keys(danet_cfg, kind):
    danet_cfg.MODEL.DANET.ATTENTION = kind
    shapes = {"res4": ShapeSpec(channels=4, stride=8)}
    head = DANetHead(danet_cfg, shapes)
    assert head.mined_share is None
    assert head.dropout.p == (0.1 if kind == "projected" else 0)
    danet_cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "hard_pixel_mining"
    danet_cfg.MODEL.SEM_SEG_HEAD.LOSS_TOP_K = 0.3
    assert DANetHead(danet_cfg, shapes).mined_share == 0.3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss_type": "ohem"}, "LOSS_TYPE is 'ohem'.* cross_entropy, hard_pixel_mining"),
        ({"loss_top_k": 0.0}, "LOSS_TOP_K is 0.0; .* above 0 and at most 1"),
        ({"loss_top_k": 20}, "LOSS_TOP_K is 20; .* above 0 and at most 1"),
        ({"dropout": 1.0}, "DROPOUT is 1.0; .* below 1"),
    ],
)
def test_errors_of_the_head_name_the_key(options, message):
    with pytest.raises(ValueError, match=message):
        make_head(**options)


def test_whole_channels_are_dropped_before_each_predictor_in_training():
    head = make_head(conv_dims=8, dropout=0.5)
    names = ("predictor", "position_predictor", "channel_predictor")
    seen = {}
    for name in names:
        getattr(head, name).register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, inputs[0])
        )
    features = {"res5": torch.randn(4, 6, *PLACE)}
    head(features, torch.randint(0, 3, (4, 64, 96)))
    kept = {name: seen[name].flatten(2).any(-1) for name in names}  # (B, C)
    for name in names:
        assert 0.2 < kept[name].float().mean() < 0.8, name
    # Each predictor drops channels of its own.
    assert not torch.equal(kept["position_predictor"], kept["channel_predictor"])
    doubled = seen["position_predictor"][kept["position_predictor"]]
    position = head.position_branch(features["res5"])[kept["position_predictor"]]
    torch.testing.assert_close(doubled, 2 * position)

    head.eval()
    with torch.no_grad():
        first, second = head(features)[0], head(features)[0]
    assert torch.equal(first, second)


def test_dropout_and_mining_leave_the_names_of_the_weights_alone():
    plain = make_head().state_dict()
    head = make_head(dropout=0.1, loss_type="hard_pixel_mining")
    assert list(head.state_dict()) == list(plain)
    head.load_state_dict(plain)


@KINDS
def test_gradient_reaches_every_parameter(kind):
    head = make_head(kind)
    for name, parameter in head.named_parameters():
        if name.endswith("gamma"):
            nn.init.ones_(parameter)
    feature = torch.randn(2, 6, *PLACE, requires_grad=True)
    sum(head({"res5": feature}, torch.randint(0, 3, (2, 64, 96)))[1].values()).backward()
    for name, parameter in head.named_parameters():
        if not name.endswith("key.bias"):  # a softmax does not see what is added to all keys alike
            assert parameter.grad.abs().sum() > 0, name
    assert feature.grad.abs().sum() > 0


@pytest.mark.parametrize("features", [["p2"], ["res4", "res5"], []])
def test_the_head_reads_one_map(danet_cfg, features):
    danet_cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = features
    shapes = {"res4": ShapeSpec(channels=4, stride=8), "res5": ShapeSpec(channels=8, stride=8)}
    with pytest.raises(ValueError, match=r"IN_FEATURES is .* one map. .*'res4', 'res5'"):
        DANetHead(danet_cfg, shapes)


# ---- the segmentor


@KINDS
def test_segmentor_learns_one_image_and_segments_it(danet_cfg, kind):
    danet_cfg.MODEL.DANET.ATTENTION = kind
    model = build_model(danet_cfg)
    image = torch.zeros(3, 61, 77, dtype=torch.uint8)
    sem_seg = torch.zeros(61, 77, dtype=torch.int64)
    for label, columns in ((1, slice(24, 48)), (2, slice(48, 77))):
        image[label - 1, :, columns] = 200
        sem_seg[:, columns] = label
    sem_seg[:8] = 255
    batch = [{"image": image, "sem_seg": sem_seg}] * 2
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        (result,) = model.eval()([{"image": image, "height": 122, "width": 154}])
    assert result["sem_seg"].shape == (4, 122, 154)
    expected = sem_seg.repeat_interleave(2, 0).repeat_interleave(2, 1)
    right = (result["sem_seg"].argmax(0) == expected)[expected != 255]
    assert right.float().mean() > 0.9


def test_images_of_different_sizes_share_a_batch(danet_cfg):
    model = build_model(danet_cfg)
    losses = model([make_input((40, 56)), make_input((33, 64))])
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        results = model.eval()([make_input((40, 56)), make_input((33, 64))])
    assert [x["sem_seg"].shape for x in results] == [(4, 40, 56), (4, 33, 64)]

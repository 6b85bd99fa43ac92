import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

from sparsercnn.conversion import LAYOUTS, ConversionError, convert

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize(
    "name,depth,groups,width",
    [("resnet18", 18, 1, 64), ("resnet50", 50, 1, 64), ("resnext50_32x4d", 50, 32, 4)],
)
def test_torchvision_resnet_gives_the_same_features(name, depth, groups, width):
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    for norm in theirs.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):  # let each do something of its own
            for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                value.data.uniform_(0.5, 1.5)
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NUM_GROUPS = groups
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = width
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth == 18 else 256
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    ours = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()

    rules = LAYOUTS["torchvision"].rules([], "", None)
    result = convert(theirs.state_dict(), rules)
    ours.load_state_dict(result.weights)
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in theirs.modules())
    assert result.dropped == {"counters of batch norms": norms, "classifier of images": 2}

    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = ours(x)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for i in range(1, 5):
            x = getattr(theirs, f"layer{i}")(x)
            torch.testing.assert_close(found[f"res{i + 1}"], x, rtol=1e-4, atol=1e-4)


def test_resnet_of_timm_by_name():
    """As in timm's resnet26: a bottleneck with a shortcut, and one without."""
    block = [f"conv{k}.weight" for k in (1, 2, 3)]
    block += [f"bn{k}.{leaf}" for k in (1, 2, 3) for leaf in BATCH_NORM]
    shortcut = ["downsample.0.weight", *(f"downsample.1.{leaf}" for leaf in BATCH_NORM)]
    names = ["conv1.weight", *(f"bn1.{leaf}" for leaf in BATCH_NORM), "fc.weight", "fc.bias"]
    names += [f"layer1.0.{name}" for name in block + shortcut]
    names += [f"layer4.1.{name}" for name in block]
    rules = LAYOUTS["timm"].rules(names, "backbone.", None)
    found = convert({name: torch.zeros(4) for name in names}, rules).weights
    assert len(found) == len(names) - 2 - 8
    for name in (
        "backbone.stem.conv1.weight",
        "backbone.stem.conv1.norm.running_var",
        "backbone.res2.0.conv3.norm.bias",
        "backbone.res2.0.shortcut.weight",
        "backbone.res2.0.shortcut.norm.running_mean",
        "backbone.res5.1.conv2.weight",
    ):
        assert name in found


@pytest.mark.parametrize(
    "name", ["conv1.0.weight", "layer1.0.downsample.2.bias", "layer1.0.se.fc1.weight"]
)
def test_resnets_that_detectron2_has_not_are_refused(name):
    rules = LAYOUTS["timm"].rules(["bn1.weight", name], "backbone.bottom_up.", None)
    with pytest.raises(ConversionError, match=name.replace(".", r"\.")):
        convert({"bn1.weight": torch.zeros(4), name: torch.zeros(4)}, rules)

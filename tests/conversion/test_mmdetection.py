"""Conversion of made checkpoints, whose names were written down from the code bases themselves."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform

import convert as tool
from sparsercnn import add_sparsercnn_config
from sparsercnn.cli.convert import get_parser
from sparsercnn.conversion import LAYOUTS, ConversionError, convert, convert_file
from sparsercnn.modeling import DualAttention, DynamicConv, DynamicMaskHead, Stage
from sparsercnn.modeling.necks.pooled_attention import AttentionBlock, WindowPooling

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def rename(names, mask_stage=None, **kwargs):
    """The names that some names are converted to."""
    weights = {name: torch.zeros(4) for name in names}
    rules = LAYOUTS["mmdetection"].rules(list(weights), "backbone.bottom_up.", mask_stage)
    return list(convert(weights, rules, **kwargs).weights)


# ---- names


def resnet_and_fpn_names():
    names = ["backbone.conv1.weight", *(f"backbone.bn1.{leaf}" for leaf in BATCH_NORM)]
    for i in range(1, 5):
        for j in range(2):
            block = f"backbone.layer{i}.{j}"
            for k in (1, 2):
                names += [f"{block}.conv{k}.weight"]
                names += [f"{block}.bn{k}.{leaf}" for leaf in BATCH_NORM]
            if j == 0 and i > 1:
                names += [f"{block}.downsample.0.weight"]
                names += [f"{block}.downsample.1.{leaf}" for leaf in BATCH_NORM]
    for i in range(4):
        for conv in ("lateral_convs", "fpn_convs"):
            names += [f"neck.{conv}.{i}.conv.{leaf}" for leaf in ("weight", "bias")]
    return names


def both(*modules):
    return [f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")]


def stage_names(stage, *interaction):
    names = [f"ffn.layers.{i}.{leaf}" for i in ("0.0", "1") for leaf in ("weight", "bias")]
    names += ["cls_fcs.0.weight", *both("cls_fcs.1")]
    for i in (0, 3, 6):
        names += [f"reg_fcs.{i}.weight", *both(f"reg_fcs.{i + 1}")]
    names += both("ffn_norm", "fc_cls", "fc_reg")
    return [f"roi_head.bbox_head.{stage}.{name}" for name in [*names, *interaction]]


def attention_names(module):
    return [f"{module}.in_proj_weight", f"{module}.in_proj_bias", *both(f"{module}.out_proj")]


DYNAMIC = [
    *attention_names("attention.attn"),
    *both("attention_norm", "instance_interactive_conv_norm"),
    *both(*(f"instance_interactive_conv.{x}" for x in ("dynamic_layer", "norm_in", "norm_out"))),
    *both("instance_interactive_conv.fc_layer", "instance_interactive_conv.fc_norm"),
]
PROPOSALS = ["rpn_head.init_proposal_bboxes.weight", "rpn_head.init_proposal_features.weight"]


def dual_names(static=False, pre_norm=False):
    names = [*attention_names("p_attention.attn"), *both("p_attention_norm", "obj_norm")]
    for j in range(2):
        gate = ["ch_attn_ffn.{}.0.layers.0.0", "ch_attn_ffn.{}.0.layers.1", "ch_attn_ffn.{}.1"]
        gate += ["sp_attn_conv.{}"]
        if not static:
            gate = [f"dym_{x}_attn_params.{{}}.{i}" for x in ("ch", "sp") for i in (0, 1)]
        names += both(*(module.format(j) for module in gate))
    layer = ["1", "2.layers.0.0", "2.layers.1", "3"]
    names += attention_names("roi_transformer.0.0.attn")
    names += both(*(f"roi_transformer.0.{x}" for x in layer))
    return names + both(*(f"roi_attn_proj.{i}" for i in range(3 if pre_norm else 2)))


def assert_model_has(names, cfg, **options):
    """The model's weights have exactly these names over there, in both directions."""
    cfg.MODEL.DEVICE = "meta"  # names need no memory
    with torch.device("meta"):
        ours = [n for n in build_model(cfg).state_dict() if not n.endswith("batches_tracked")]
    assert set(rename(names, **options)) == set(ours)
    dropped = {name for name in names if name.endswith("batches_tracked")}
    assert set(rename(ours, reverse=True, **options)) == set(names) - dropped


@pytest.fixture
def sparse_cfg(tiny_cfg):
    tiny_cfg.MODEL.FPN.NORM = ""
    return tiny_cfg


def test_sparse_rcnn_by_name(sparse_cfg):
    names = resnet_and_fpn_names() + PROPOSALS
    names += [name for i in range(2) for name in stage_names(i, *DYNAMIC)]
    assert_model_has(names, sparse_cfg)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_dual_attention_by_name(sparse_cfg, static, pre_norm):
    sparse = sparse_cfg.MODEL.SparseRCNN
    sparse.INTERACTION = "dual_attention"
    sparse.DUAL_ATTENTION.NUM_CBAM = 2
    sparse.DUAL_ATTENTION.DYNAMIC_CBAM = not static
    sparse.DUAL_ATTENTION.PRE_NORM = pre_norm
    names = resnet_and_fpn_names() + PROPOSALS
    names += [name for i in range(2) for name in stage_names(i, *dual_names(static, pre_norm))]
    assert_model_has(names, sparse_cfg)


def query_mask_names(stage):
    conv = "instance_interactive_conv"
    modules = [f"{conv}.dynamic_layer", f"{conv}.norm_in", f"{conv}.norm_out"]
    names = both(*modules, "upsample", "conv_logits")
    for j in range(4):
        names += [f"convs.{j}.conv.weight", *(f"convs.{j}.bn.{leaf}" for leaf in BATCH_NORM)]
    return [f"roi_head.mask_head.{stage}.{name}" for name in names]


@pytest.mark.parametrize("interaction", ["dynamic_conv", "dual_attention"])
def test_queryinst_by_name(sparse_cfg, interaction):
    """With the interaction of Dual-Attention Sparse R-CNN, too."""
    sparse_cfg.MODEL.MASK_ON = True
    sparse = sparse_cfg.MODEL.SparseRCNN
    sparse.INTERACTION, sparse.DUAL_ATTENTION.NUM_CBAM = interaction, 2
    inside = DYNAMIC if interaction == "dynamic_conv" else dual_names(pre_norm=True)
    names = resnet_and_fpn_names() + PROPOSALS
    names += [name for i in range(2) for name in stage_names(i, *inside) + query_mask_names(i)]
    assert_model_has(names, sparse_cfg)


def test_a_shared_mask_head_has_no_counterpart():
    ours = ["head.head_series.0.norm1.weight", "head.head_series.1.norm1.weight"]
    mask = "mask_branch.mask_head.0.predictor.weight"
    with pytest.raises(ConversionError, match="one mask head for its 2 stages .*--only") as raised:
        rename([*ours, mask], reverse=True)
    assert raised.value.keys == [mask]
    assert len(rename([*ours, mask, mask.replace("0", "1")], reverse=True)) == 4


def test_mask_heads_of_the_first_queryinst_are_refused():
    convs = [f"roi_head.mask_head.0.convs.0.{x}" for x in ("conv.bias", "bn.weight")]
    with pytest.raises(ConversionError, match="biases beside their norms.*running_mean") as raised:
        rename([*PROPOSALS, *convs])
    assert raised.value.keys == convs[:1]
    # Without norms, they belong there.
    assert rename([*PROPOSALS, convs[0]])[-1] == "mask_branch.mask_head.0.mask_fcn1.bias"


def sparse_rcnn_weights(path, *prefixes):
    """A file of Sparse R-CNN of four stages, or of its parts that begin with one of `prefixes`."""
    names = PROPOSALS + [name for i in range(4) for name in stage_names(i, *DYNAMIC)]
    names = [name for name in names if not prefixes or name.startswith(prefixes)]
    torch.save({"state_dict": {name: torch.ones(4) for name in names}}, path)
    return names


@pytest.mark.parametrize("prefixes", [(), ("roi_head.",)], ids=["whole file", "heads alone"])
def test_heads_of_sparse_rcnn_without_its_proposals(tmp_path, capsys, prefixes):
    names = sparse_rcnn_weights(tmp_path / "theirs.pth", *prefixes)
    heads = {name for name in names if name.startswith("roi_head.")}
    files = [str(tmp_path / name) for name in ("theirs.pth", "ours.pth", "back.pth")]
    arguments = ["--from", "mmdetection", "--only"]
    assert tool.main([*arguments, "roi_head.", "--", *files[:2]]) == 0, capsys.readouterr().err
    ours = torch.load(files[1])["model"]
    assert len(ours) == len(heads) and all(name.startswith("head.head_series.") for name in ours)
    # Deltas of boxes are those of Sparse R-CNN, not rescaled as a cascade's are.
    assert torch.equal(ours["head.head_series.2.bboxes_delta.weight"], torch.ones(4))
    assert tool.main([*arguments, "head.", "--reverse", "--", *files[1:]]) == 0
    assert set(torch.load(files[2])["state_dict"]) == heads


def test_a_single_layer_of_a_stage_is_known_by_the_rest_of_its_file(tmp_path):
    sparse_rcnn_weights(tmp_path / "theirs.pth")
    files = [str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pth")]
    result = convert_file(*files, "mmdetection", only=["roi_head.bbox_head.0.fc_reg.weight"])
    assert list(result.weights) == ["head.head_series.0.bboxes_delta.weight"]


def test_a_cascade_of_four_stages_is_refused():
    names = both(*(f"roi_head.bbox_head.{i}.fc_reg" for i in range(4)))
    with pytest.raises(ConversionError, match=r"No rule covers 2 of 8") as raised:
        rename(names)
    assert raised.value.keys == both("roi_head.bbox_head.3.fc_reg")


def neck_names(cross):
    norms = ["norm1_1", "norm1_2", "norm1_3"] if cross else ["norm1", "norm2"]
    modules = [*norms, "ms_attn.proj", "ms_attn.p_norm", "mlp.fc1", "mlp.dwconv.dwconv", "mlp.fc2"]
    names = []
    for i in range(4):
        names += both(f"neck.lateral_convs.{i}.conv")
        names += both(*(f"neck.fpn_convs.{i}.{module}" for module in modules))
        names += [f"neck.fpn_convs.{i}.ms_attn.{x}.weight" for x in ("q", "kv")]
    return names


def cascade_names(*mask_stages):
    names = both("rpn_head.rpn_conv", "rpn_head.rpn_cls", "rpn_head.rpn_reg")
    for i in range(3):
        modules = ("shared_fcs.0", "shared_fcs.1", "fc_cls", "fc_reg")
        names += both(*(f"roi_head.bbox_head.{i}.{module}" for module in modules))
    mask = [f"convs.{j}.conv" for j in range(2)] + ["upsample", "conv_logits"]
    stages = [f"roi_head.mask_head.{stage}" for stage in mask_stages]
    return names + both(*(f"{stage}.{module}" for stage in stages for module in mask))


@pytest.fixture
def cascade_cfg(repository):
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(repository / "configs/quickstart/cascade_mask_rcnn.yaml"))
    cfg.MODEL.FPN.NORM = ""
    return cfg


@pytest.mark.parametrize("aggregation", ["mssa", "mssa_adp", "msca", "msca_adp"])
def test_cascade_with_these_necks_by_name(cascade_cfg, aggregation):
    cascade_cfg.MODEL.FPN.AGGREGATION = aggregation
    names = [name for name in resnet_and_fpn_names() if name.startswith("backbone.")]
    names += neck_names(cross="msca" in aggregation) + cascade_names(2)
    assert_model_has(names, cascade_cfg, mask_stage=2)


def test_cascade_with_a_mask_head_for_each_stage_by_name(cascade_cfg):
    cascade_cfg.MODEL.ROI_HEADS.NAME = "CascadeMaskROIHeads"
    cascade_cfg.MODEL.FPN.AGGREGATION = "sum"
    assert_model_has(resnet_and_fpn_names() + cascade_names(0, 1, 2), cascade_cfg)


def test_mask_heads_of_a_cascade_are_all_taken_or_one_of_them():
    names = [f"roi_head.mask_head.{i}.conv_logits.weight" for i in range(3)]
    assert rename(names) == [f"roi_heads.mask_head.{i}.predictor.weight" for i in range(3)]
    single = ["roi_heads.mask_head.predictor.weight"]
    assert rename(names, mask_stage=1) == single
    assert rename(single, mask_stage=1, reverse=True) == names[1:2]
    with pytest.raises(ConversionError, match="choose the stage to write it to with --mask-stage"):
        rename(single, reverse=True)


@pytest.mark.parametrize(
    "name",
    [
        "neck.fpn_convs.4.conv.weight",  # of a pyramid with p6 and p7
        "backbone.layer2.0.conv2.conv_offset.weight",  # deformable
        "bbox_head.0.fc_cls.weight",  # mmdetection 1, whose background comes first
        "ema_backbone_conv1_weight",
    ],
)
def test_what_has_no_counterpart_is_refused(name):
    with pytest.raises(ConversionError, match=r"No rule covers 1 of 2"):
        rename(["backbone.conv1.weight", name])


def test_a_neck_that_does_not_start_at_res2_is_refused():
    names = [f"neck.lateral_convs.{i}.conv.weight" for i in range(3)]
    with pytest.raises(ConversionError, match="3 lateral convolutions.*--only backbone"):
        rename(names)
    fourth = "neck.lateral_convs.3.conv.weight"
    assert rename([*names, fourth])[-1] == "backbone.fpn_lateral5.weight"


# ---- numbers


def make_weights(module, scale=0.3):
    """Values that matter for all of a module's weights."""
    return {name: scale * torch.randn_like(x) for name, x in module.state_dict().items()}


def reversed_stage(stage):
    """The weights of our stage as those of the first stage over there."""
    ours = {f"head.head_series.0.{name}": x for name, x in stage.state_dict().items()}
    ours["init_proposal_boxes.weight"] = torch.zeros(1, 4)  # tells that it is Sparse R-CNN
    rules = LAYOUTS["mmdetection"].rules(list(ours), "", None)
    theirs = convert(ours, rules, reverse=True).weights
    again = convert(theirs, LAYOUTS["mmdetection"].rules(list(theirs), "", None)).weights
    torch.testing.assert_close(again, ours, rtol=0, atol=0)
    prefix = "roi_head.bbox_head.0."
    return {k.removeprefix(prefix): v for k, v in theirs.items() if k.startswith(prefix)}


class Theirs:
    """mmdetection's layers, by the names of their weights."""

    def __init__(self, weights):
        self.weights = weights

    def linear(self, name, x):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def norm(self, name, x):
        weight = self.weights[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, self.weights[f"{name}.bias"])

    def attend(self, name, query, key, value, heads):
        """Multi-head attention with the residual inside, of sequences (R, L, C)."""
        C = value.shape[-1]
        weights = self.weights[f"{name}.in_proj_weight"].split(C)
        biases = self.weights[f"{name}.in_proj_bias"].split(C)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        scores = q @ k.mT / math.sqrt(C // heads)
        return self.linear(f"{name}.out_proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def ffn(self, name, x):
        hidden = self.linear(f"{name}.layers.0.0", x).relu()
        return x + self.linear(f"{name}.layers.1", hidden)

    def predict(self, x):
        """Class scores and box deltas of the features after the interaction's norm."""
        x = self.norm("ffn_norm", self.ffn("ffn", x))
        logits = self.norm("cls_fcs.1", self.linear("cls_fcs.0", x)).relu()
        deltas = x
        for i in (0, 3, 6):
            deltas = self.norm(f"reg_fcs.{i + 1}", self.linear(f"reg_fcs.{i}", deltas)).relu()
        return self.linear("fc_cls", logits), self.linear("fc_reg", deltas)


def decode(boxes, deltas, stds):
    """DeltaXYWHBBoxCoder of mmdetection with zero means."""
    dx, dy, dw, dh = (deltas * torch.tensor(stds)).unbind(-1)
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1, y2 - y1
    cx, cy = (x1 + x2) / 2 + dx * w, (y1 + y2) / 2 + dy * h
    w, h = w * dw.exp(), h * dh.exp()
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)


N, C, r = 3, 16, 3


def make_stage(interaction):
    stage = Stage(
        interaction=interaction,
        num_logits=5,
        hidden_dim=C,
        num_attention_heads=4,
        dim_feedforward=24,
    ).eval()
    stage.load_state_dict(make_weights(stage))
    corners = torch.rand(1, N, 2) * 40
    boxes = torch.cat([corners, corners + 10 + torch.rand(1, N, 2) * 40], dim=-1)
    return stage, torch.randn(N, C, r, r), boxes, torch.randn(1, N, C)


def assert_same_predictions(theirs, features, stage, inputs):
    logits, deltas = theirs.predict(features)
    our_logits, our_boxes, *_ = stage(*inputs)
    torch.testing.assert_close(our_logits[0], logits, rtol=1e-4, atol=1e-4)
    boxes = decode(inputs[1][0], deltas, (0.5, 0.5, 1.0, 1.0))
    torch.testing.assert_close(our_boxes[0], boxes, rtol=1e-4, atol=1e-3)


def test_dynamic_instance_interaction_gives_the_same_boxes():
    D = 6
    interaction = DynamicConv(hidden_dim=C, dim_dynamic=D, pooler_resolution=r)
    stage, roi_features, boxes, proposals = make_stage(interaction)
    theirs = Theirs(reversed_stage(stage))
    p = theirs.attend("attention.attn", proposals, proposals, proposals, 4)
    p = theirs.norm("attention_norm", proposals + p)[0]
    conv = "instance_interactive_conv"
    parameters = theirs.linear(f"{conv}.dynamic_layer", p)
    parameters_in = parameters[:, : C * D].reshape(N, C, D)
    parameters_out = parameters[:, -C * D :].reshape(N, D, C)
    x = roi_features.reshape(N, C, -1).permute(2, 0, 1)  # positions first
    x = torch.einsum("lnc,ncd->nld", x, parameters_in)
    x = theirs.norm(f"{conv}.norm_in", x).relu()
    x = torch.einsum("nld,ndc->nlc", x, parameters_out)
    x = theirs.norm(f"{conv}.norm_out", x).relu()
    x = theirs.linear(f"{conv}.fc_layer", x.reshape(N, -1))
    x = theirs.norm(f"{conv}.fc_norm", x).relu()
    features = theirs.norm(f"{conv}_norm", p + x)
    assert_same_predictions(theirs, features, stage, (roi_features, boxes, proposals))


def test_dynamic_mask_head_gives_the_same_masks():
    D, K = 6, 4
    head = DynamicMaskHead(hidden_dim=C, num_classes=K, dim_dynamic=D, num_conv=2, conv_dim=10)
    for name, value in head.eval().requires_grad_(False).state_dict().items():
        if value.is_floating_point():
            value.normal_(0, 0.3)
        if name.endswith("running_var"):
            value.abs_().add_(0.1)
    ours = {f"mask_branch.mask_head.0.{name}": x for name, x in head.state_dict().items()}
    rules = LAYOUTS["mmdetection"].rules(list(ours), "", None)
    weights = convert(ours, rules, reverse=True).weights
    prefix = "roi_head.mask_head.0."
    theirs = Theirs({name.removeprefix(prefix): x for name, x in weights.items()})
    queries, roi_features, classes = torch.randn(N, C), torch.randn(N, C, r, r), [1, 3, 0]
    conv = "instance_interactive_conv"
    parameters = theirs.linear(f"{conv}.dynamic_layer", queries)
    x = roi_features.reshape(N, C, r * r).permute(0, 2, 1)
    x = torch.einsum("nlc,ncd->nld", x, parameters[:, : C * D].reshape(N, C, D))
    x = theirs.norm(f"{conv}.norm_in", x).relu()
    x = torch.einsum("nld,ndc->nlc", x, parameters[:, -C * D :].reshape(N, D, C))
    x = theirs.norm(f"{conv}.norm_out", x).relu()
    x = x.permute(0, 2, 1).reshape(N, C, r, r)
    for j in range(2):
        x = F.conv2d(x, theirs.weights[f"convs.{j}.conv.weight"], padding=1)
        statistics = ("running_mean", "running_var", "weight", "bias")
        x = F.batch_norm(x, *(theirs.weights[f"convs.{j}.bn.{leaf}"] for leaf in statistics)).relu()
    upsample, logits = ([theirs.weights[f"{name}.{leaf}"] for leaf in ("weight", "bias")]
                        for name in ("upsample", "conv_logits"))  # fmt: skip
    every_class = F.conv2d(F.conv_transpose2d(x, *upsample, stride=2).relu(), *logits)
    found = head(queries, roi_features, torch.tensor(classes))
    torch.testing.assert_close(found, every_class[range(N), classes], rtol=1e-4, atol=1e-4)


def static_channel_weights(theirs, j, x):
    pooled = torch.stack([x.mean((2, 3)), x.amax((2, 3))], dim=1)  # (N, 2, C)
    hidden = theirs.linear(f"ch_attn_ffn.{j}.0.layers.0.0", pooled).relu()
    pooled = theirs.linear(f"ch_attn_ffn.{j}.0.layers.1", hidden)
    return theirs.norm(f"ch_attn_ffn.{j}.1", pooled).sum(1).sigmoid()


def static_position_weights(theirs, j, x):
    maps = torch.stack([x.mean(1), x.amax(1)], dim=1)
    weights = theirs.weights
    name = f"sp_attn_conv.{j}"
    return F.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).sigmoid()


def dynamic_weights(theirs, kind, j, p):
    name = f"dym_{kind}_attn_params.{j}"
    return theirs.norm(f"{name}.1", theirs.linear(f"{name}.0", p)).sigmoid()


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("pre_norm", [True, False])
def test_dual_attention_gives_the_same_boxes(dynamic, pre_norm):
    interaction = DualAttention(
        hidden_dim=C,
        pooler_resolution=r,
        num_cbam=2,
        num_transformer=2,
        dynamic_cbam=dynamic,
        pre_norm=pre_norm,
        num_attention_heads=4,
        dim_feedforward=24,
    )
    stage, roi_features, boxes, proposals = make_stage(interaction)
    theirs = Theirs(reversed_stage(stage))
    p = theirs.attend("p_attention.attn", proposals, proposals, proposals, 4)
    p = theirs.norm("p_attention_norm", proposals + p)[0]

    x = roi_features
    for j in range(2):
        if dynamic:
            channels = dynamic_weights(theirs, "ch", j, p)[:, :, None, None] * x
            positions = dynamic_weights(theirs, "sp", j, p).view(N, 1, r, r)
        else:
            channels = static_channel_weights(theirs, j, x)[:, :, None, None] * x
            positions = static_position_weights(theirs, j, channels)
        x = x + positions * channels

    tokens = roi_features.flatten(2).mT
    position = interaction.position_code + p[:, None]
    for j in range(2):
        layer, placed = f"roi_transformer.{j}", tokens + position
        attended = theirs.attend(f"{layer}.0.attn", placed, placed, tokens, 4)
        tokens = theirs.norm(f"{layer}.1", tokens + attended)
        tokens = theirs.norm(f"{layer}.3", theirs.ffn(f"{layer}.2", tokens))

    flat = tokens.mT.flatten(1) + x.flatten(1)
    first = int(pre_norm)
    if pre_norm:
        flat = theirs.norm("roi_attn_proj.0", flat)
    flat = theirs.linear(f"roi_attn_proj.{first}", flat)
    features = theirs.norm("obj_norm", p + theirs.norm(f"roi_attn_proj.{first + 1}", flat))
    assert_same_predictions(theirs, features, stage, (roi_features, boxes, proposals))


@pytest.mark.parametrize(
    "stage,stds,weights",
    [
        (0, (0.1, 0.1, 0.2, 0.2), (10, 10, 5, 5)),
        (1, (0.05, 0.05, 0.1, 0.1), (20, 20, 10, 10)),
        (2, (0.033, 0.033, 0.067, 0.067), (30, 30, 15, 15)),
    ],
)
def test_cascade_moves_boxes_as_far(stage, stds, weights):
    features = torch.randn(6, 7)
    theirs = {"weight": torch.randn(4, 7), "bias": torch.randn(4)}
    named = {f"roi_head.bbox_head.{stage}.fc_reg.{leaf}": x for leaf, x in theirs.items()}
    rules = LAYOUTS["mmdetection"].rules(list(named), "", None)
    ours = convert(named, rules).weights
    prefix = f"roi_heads.box_predictor.{stage}.bbox_pred."
    corners = torch.rand(6, 2) * 50
    boxes = torch.cat([corners, corners + 20], dim=1)
    our_deltas = F.linear(features, ours[f"{prefix}weight"], ours[f"{prefix}bias"])
    moved = Box2BoxTransform(weights=weights).apply_deltas(our_deltas, boxes)
    expected = decode(boxes, F.linear(features, **theirs), stds)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-4)
    back = convert(ours, rules, reverse=True).weights
    torch.testing.assert_close(back, named)


@pytest.mark.parametrize("cross", [False, True])
def test_block_of_these_necks_gives_the_same_map(cross):
    block = AttentionBlock(C, WindowPooling((4, 2)), cross=cross).eval()
    block.load_state_dict(make_weights(block))
    ours = {f"backbone.fpn_attention4.{name}": x for name, x in block.state_dict().items()}
    rules = LAYOUTS["mmdetection"].rules(list(ours), "", None)
    theirs = convert(ours, rules, reverse=True).weights
    again = convert(theirs, LAYOUTS["mmdetection"].rules(list(theirs), "", None)).weights
    torch.testing.assert_close(again, ours, rtol=0, atol=0)
    theirs = Theirs({k.removeprefix("neck.fpn_convs.2."): v for k, v in theirs.items()})

    H, W = 6, 9
    s, d = torch.randn(1, C, H, W), torch.randn(1, C, H, W)
    x, source = s.flatten(2).mT, (d if cross else s).flatten(2).mT
    norms = ("norm1_1", "norm1_2", "norm1_3") if cross else ("norm1", "norm1", "norm2")
    asked = theirs.norm(norms[1], source).mT.unflatten(2, (H, W))
    pools = [torch.nn.AvgPool2d(side, stride=side) for side in (4, 2)]
    tokens = torch.cat([pool(asked).reshape(1, C, -1).permute(0, 2, 1) for pool in pools], dim=1)
    query = theirs.linear("ms_attn.q", theirs.norm(norms[0], x))
    keys_values = theirs.linear("ms_attn.kv", theirs.norm("ms_attn.p_norm", tokens))
    key, value = keys_values.reshape(1, -1, 2, 4, C // 4).permute(2, 0, 3, 1, 4)
    scores = query.reshape(1, -1, 4, C // 4).transpose(1, 2) @ key.mT * (C // 4) ** -0.5
    attended = (scores.softmax(-1) @ value).transpose(1, 2).reshape(1, -1, C)
    x = x + theirs.linear("ms_attn.proj", attended)
    hidden = theirs.linear("mlp.fc1", theirs.norm(norms[2], x)).mT.unflatten(2, (H, W))
    name = "mlp.dwconv.dwconv"
    weight, bias = theirs.weights[f"{name}.weight"], theirs.weights[f"{name}.bias"]
    hidden = F.gelu(F.conv2d(hidden, weight, bias, padding=1, groups=2 * C))
    x = x + theirs.linear("mlp.fc2", hidden.flatten(2).mT)
    expected = x.mT.unflatten(2, (H, W))
    torch.testing.assert_close(block(s, d if cross else None), expected, rtol=1e-4, atol=1e-3)


def test_the_command_line_offers_all_layouts():
    (option,) = (x for x in get_parser()._actions if x.dest == "layout")
    assert sorted(option.choices) == sorted(LAYOUTS)

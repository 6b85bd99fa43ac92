"""Rules for weights of mmdetection, and of models built on it.

Sparse R-CNN has been in mmdetection since version 2.8, QueryInst since 2.18. The head of
Dual-Attention Sparse R-CNN is from github.com/sangwooP/dual_attn_sparse_rcnn, the necks are from
github.com/XiongweiWu/MSCA-SA.
"""

import re

import torch

from ..errors import ConversionError
from .resnet import COUNTERS, resnet_rules
from .rules import Drop, Rule

__all__ = ["mmdetection_rules"]

_STAGE, _OUR_STAGE = "roi_head.bbox_head.{i}", "head.head_series.{i}"
_MASK, _OUR_MASK = "roi_head.mask_head", "roi_heads.mask_head"
_OUR_QUERY_MASK = "mask_branch.mask_head"
# For the three stages of a cascade: mmdetection's standard deviations of the box deltas, and
# detectron2's ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS, their inverses.
_CASCADE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
_CASCADE_WEIGHTS = ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))


def mmdetection_rules(names, mask_stage=None, wanted=None):
    """The rules for one model, whose kind is recognised from the names of its weights.

    Args:
        names (iterable[str]): names of all weights, theirs or ours.
        mask_stage (int): which of a cascade's three mask heads to convert, for a model with a
            single one, as in detectron2's own cascade; None: all.
        wanted (iterable[str]): names of the weights to convert; None: all.

    Returns:
        list[Rule | Drop]: in the order in which to try them.

    Raises:
        ConversionError: our model has a single mask head where theirs has one per stage, and
            `mask_stage` does not tell which it is; the FPN does not start at res2; or the mask
            heads are those of QueryInst's first code.
    """
    names = list(names)
    wanted = names if wanted is None else list(wanted)
    _check_neck(wanted)

    def has(*parts):
        return any(part in name for name in names for part in parts)

    rules = [COUNTERS, *resnet_rules("backbone.", "backbone.bottom_up.")]
    rules += _neck_rules(cross=has(".norm1_2.", ".norm_source."))
    # A file of heads alone has no proposals.
    if has("init_proposal_", ".ffn_norm.", "head.head_series.", f"{_OUR_QUERY_MASK}."):
        _check_query_masks(names, wanted)
        rules += _proposal_rules() + _stage_rules() + _query_mask_rules()
        if has(".p_attention.", ".inst_interact.out_norm."):
            rules += _dual_attention_rules(pre_norm=has(".roi_attn_proj.2.", ".pre_norm."))
            rules += _cbam_rules(static=has(".ch_attn_ffn.", ".channel_gate.feed_forward."))
        else:
            rules += _dynamic_conv_rules()
    else:
        single = [x for x in wanted if re.match(rf"{re.escape(_OUR_MASK)}\.\D", x)]
        if single and mask_stage is None:
            raise ConversionError(
                "The model has one mask head, but mmdetection's cascade has three: choose the "
                "stage to write it to with --mask-stage 0, 1 or 2.",
                single,
            )
        rules += _rpn_rules() + _cascade_rules() + _mask_rules(mask_stage)
    return rules


def _pairs(theirs, ours, names):
    """Rules for modules with weight and bias."""
    return [Rule(f"{theirs}.{x}.{{leaf}}", f"{ours}.{y}.{{leaf}}") for x, y in names.items()]


def _check_neck(names):
    # With four laterals, lateral_convs.0 reads res2. The necks of RetinaNet, FCOS and ATSS have
    # three and start at res3: their levels would be shifted by one.
    laterals = [name for name in names if name.startswith("neck.lateral_convs.")]
    num_levels = len({name.split(".")[2] for name in laterals})
    if laterals and num_levels != 4:
        raise ConversionError(
            f"The neck has {num_levels} lateral convolutions, but detectron2's FPN over res2 to "
            "res5 has 4. To convert only the backbone, use --only backbone.",
            laterals,
        )


def _neck_rules(cross):
    lateral, our_lateral = "neck.lateral_convs.{level}", "backbone.fpn_lateral{level+2}"
    output, our_output = "neck.fpn_convs.{level}", "backbone.fpn_output{level+2}"
    block = "backbone.fpn_attention{level+2}"
    if cross:
        norms = {"norm1_1": "norm_query", "norm1_2": "norm_source", "norm1_3": "norm_mlp"}
    else:
        norms = {"norm1": "norm_query", "norm2": "norm_mlp"}
    rules = [
        Rule(f"{lateral}.conv.{{leaf}}", f"{our_lateral}.{{leaf}}"),
        Rule(f"{lateral}.bn.{{leaf}}", f"{our_lateral}.norm.{{leaf}}"),
        Rule(f"{output}.conv.{{leaf}}", f"{our_output}.{{leaf}}"),
        Rule(f"{output}.bn.{{leaf}}", f"{our_output}.norm.{{leaf}}"),
    ]
    modules = {
        **norms,
        "ms_attn.q": "attention.q",
        "ms_attn.kv": "attention.kv",
        "ms_attn.proj": "attention.proj",
        "ms_attn.p_norm": "attention.norm",
        "mlp.fc1": "mlp.linear1",
        "mlp.dwconv.dwconv": "mlp.depthwise",
        "mlp.fc2": "mlp.linear2",
    }
    return rules + _pairs(output, block, modules)


def _proposal_rules():
    # On both sides, boxes are centre and size as fractions of the image's size.
    return [
        Rule(f"rpn_head.init_proposal_{x}.weight", f"init_proposal_{y}.weight")
        for x, y in (("bboxes", "boxes"), ("features", "features"))
    ]


def _stage_rules():
    """Layers that the stages of Sparse R-CNN and Dual-Attention Sparse R-CNN share.

    Values stay unchanged: mmdetection's standard deviations of box deltas, 0.5, 0.5, 1, 1, equal
    our weights 2, 2, 1, 1, and with a softmax, "no object" is the last class on both sides.
    """
    modules = {
        "ffn.layers.0.0": "linear1",
        "ffn.layers.1": "linear2",
        "ffn_norm": "norm3",
        "cls_fcs.{j}": "cls_module.{j}",
        "reg_fcs.{j}": "reg_module.{j}",
        "fc_cls": "class_logits",
        "fc_reg": "bboxes_delta",
    }
    return _pairs(_STAGE, _OUR_STAGE, modules)


def _dynamic_conv_rules():
    """On both sides, the first half of `dynamic_layer`'s output is the first matrix, C x D."""
    theirs, ours = f"{_STAGE}.instance_interactive_conv", f"{_OUR_STAGE}.inst_interact"
    modules = {
        "dynamic_layer": "dynamic_layer",
        "norm_in": "norm1",
        "norm_out": "norm2",
        "fc_layer": "out_layer",
        "fc_norm": "norm3",
    }
    return [
        Rule(f"{_STAGE}.attention.attn.{{rest}}", f"{_OUR_STAGE}.self_attn.{{rest}}"),
        Rule(f"{_STAGE}.attention_norm.{{leaf}}", f"{_OUR_STAGE}.norm1.{{leaf}}"),
        Rule(f"{theirs}_norm.{{leaf}}", f"{_OUR_STAGE}.norm2.{{leaf}}"),
        *_pairs(theirs, ours, modules),
    ]


def _query_mask_rules():
    """Mask heads of QueryInst, one per stage. The logits of all classes are there on both sides."""
    theirs, ours = f"{_MASK}.{{i}}", f"{_OUR_QUERY_MASK}.{{i}}"
    modules = {
        "instance_interactive_conv.dynamic_layer": "interaction.dynamic_layer",
        "instance_interactive_conv.norm_in": "interaction.norm1",
        "instance_interactive_conv.norm_out": "interaction.norm2",
        "convs.{j}.conv": "mask_fcn{j+1}",
        "convs.{j}.bn": "mask_fcn{j+1}.norm",
        "upsample": "deconv",
        "conv_logits": "predictor",
    }
    return _pairs(theirs, ours, modules)


def _check_query_masks(names, wanted):
    heads = [x for x in wanted if x.startswith(f"{_OUR_QUERY_MASK}.")]
    stages = {x.split(".")[2] for x in names if x.startswith("head.head_series.")}
    if heads and len(stages) > len({x.split(".")[2] for x in heads}):
        raise ConversionError(
            f"The model has one mask head for its {len(stages)} stages (MASK.SHARED, or without "
            "DEEP_SUPERVISION), but mmdetection's has one for each. Convert the rest with --only "
            "backbone. init_proposal_ head.",
            heads,
        )
    biases = [x for x in wanted if re.fullmatch(rf"{_MASK}\.\d+\.convs\.\d+\.conv\.bias", x)]
    if biases and any(re.match(rf"{_MASK}\.\d+\.convs\.\d+\.bn\.", x) for x in names):
        raise ConversionError(
            "The convolutions of the mask heads have biases beside their norms, as in the code "
            "that QueryInst was published with; mmdetection's have none. Subtract them from "
            "running_mean of the norms and remove them from the file.",
            biases,
        )


def _dual_attention_rules(pre_norm):
    ours = f"{_OUR_STAGE}.inst_interact"
    layers, our_layers = f"{_STAGE}.roi_transformer.{{j}}", f"{ours}.transformer.{{j}}"
    modules = {
        "1": "norm1",
        "2.layers.0.0": "feed_forward.linear1",
        "2.layers.1": "feed_forward.linear2",
        "3": "norm2",
    }
    ends = ["pre_norm"] * pre_norm + ["out_layer", "out_norm"]
    return [
        Rule(f"{_STAGE}.p_attention.attn.{{rest}}", f"{_OUR_STAGE}.self_attn.{{rest}}"),
        *_pairs(_STAGE, _OUR_STAGE, {"p_attention_norm": "norm1", "obj_norm": "norm2"}),
        Rule(f"{layers}.0.attn.{{rest}}", f"{our_layers}.self_attn.{{rest}}"),
        *_pairs(layers, our_layers, modules),
        *_pairs(f"{_STAGE}.roi_attn_proj", ours, {str(i): name for i, name in enumerate(ends)}),
    ]


def _cbam_rules(static):
    ours = f"{_OUR_STAGE}.inst_interact.cbam.{{j}}"
    if not static:
        modules = {
            "dym_ch_attn_params.{j}.0": "channel_gate.linear",
            "dym_ch_attn_params.{j}.1": "channel_gate.norm",
            "dym_sp_attn_params.{j}.0": "position_gate.linear",
            "dym_sp_attn_params.{j}.1": "position_gate.norm",
        }
        return _pairs(_STAGE, ours, modules)
    modules = {
        "ch_attn_ffn.{j}.0.layers.0.0": "channel_gate.feed_forward.linear1",
        "ch_attn_ffn.{j}.0.layers.1": "channel_gate.feed_forward.linear2",
        "sp_attn_conv.{j}": "position_gate.conv",
    }
    norm = Rule(
        f"{_STAGE}.ch_attn_ffn.{{j}}.1.{{leaf}}",
        f"{ours}.channel_gate.norm.{{leaf}}",
        to_ours=lambda x, _: x.flatten(),  # (2, C), for mean- and max-pooled channels
        to_theirs=lambda x, _: x.unflatten(0, (2, -1)),
    )
    return [norm, *_pairs(_STAGE, ours, modules)]


def _rpn_rules():
    # The anchors of a position have the same order on both sides: height over width 0.5, 1, 2.
    modules = {"rpn_conv": "conv", "rpn_cls": "objectness_logits", "rpn_reg": "anchor_deltas"}
    return _pairs("rpn_head", "proposal_generator.rpn_head", modules)


def _cascade_rules():
    """Box heads of a cascade with three stages; background is the last class (mmdetection 2)."""
    stage, predictor = "roi_head.bbox_head.{stage}", "roi_heads.box_predictor.{stage}"
    return [
        Rule(f"{stage}.shared_fcs.{{j}}.{{leaf}}", "roi_heads.box_head.{stage}.fc{j+1}.{leaf}"),
        Rule(f"{stage}.fc_cls.{{leaf}}", f"{predictor}.cls_score.{{leaf}}"),
        Rule(
            f"{stage}.fc_reg.{{leaf}}",
            f"{predictor}.bbox_pred.{{leaf}}",
            to_ours=lambda x, fields: x * _delta_scale(x, fields),
            to_theirs=lambda x, fields: x / _delta_scale(x, fields),
        ),
    ]


def _delta_scale(tensor, fields):
    """Ratio of detectron2's deltas to mmdetection's: 1 except in the third stage, where
    mmdetection rounds 1 / 30 and 1 / 15."""
    stage = int(fields["stage"])
    scale = torch.tensor(_CASCADE_STDS[stage]) * torch.tensor(_CASCADE_WEIGHTS[stage])
    scale = scale.to(tensor).repeat(len(tensor) // 4)
    return scale.view(-1, *[1] * (tensor.dim() - 1))


def _mask_rules(stage):
    """Mask heads of a cascade, one per stage; or only that of `stage`, for a model with one."""
    modules = {"upsample": "deconv", "conv_logits": "predictor"}
    if stage is None:
        theirs, ours, others = f"{_MASK}.{{stage}}", f"{_OUR_MASK}.{{stage}}", []
    else:
        theirs, ours = f"{_MASK}.{stage}", _OUR_MASK
        others = [f"{_MASK}.{i}.{{rest}}" for i in range(3) if i != stage]
    return [
        Rule(f"{theirs}.convs.{{j}}.conv.{{leaf}}", f"{ours}.mask_fcn{{j+1}}.{{leaf}}"),
        *_pairs(theirs, ours, modules),
        *(Drop(name, "mask heads of other stages") for name in others),
    ]

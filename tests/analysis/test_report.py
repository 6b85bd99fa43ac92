import re

import pytest
from detectron2.config import get_cfg

from sparsercnn import add_sparsercnn_config
from sparsercnn.analysis import (
    ForwardCost,
    ModelCost,
    StepMemory,
    find_configs,
    format_costs,
    input_size,
    measure_model,
)
from sparsercnn.errors import UserError


def small_config(meta_architecture, backbone="build_resnet_fpn_backbone"):
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = meta_architecture
    cfg.MODEL.BACKBONE.NAME = backbone
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    return cfg


def test_detectors_with_masks_are_measured():
    cfg = small_config("GeneralizedRCNN")
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 20
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 8
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cost = measure_model(cfg, (64, 96))
    # Other: the pasting of masks into the image, unless detectron2 scripts it, as newer ones do.
    assert set(cost.forward.flops) - {"other"} == {"backbone", "neck", "proposals", "head"}
    assert cost.step.kept > 0
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.99  # which nothing passes with random weights
    assert measure_model(cfg, (64, 96)).forward == cost.forward


def test_semantic_segmentation_is_measured():
    cfg = small_config("SemanticSegmentor")
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cost = measure_model(cfg, (64, 96))
    # Other: the resizing of the result to the image.
    assert set(cost.forward.flops) == {"backbone", "neck", "head", "other"}
    assert cost.step.kept > 0


def test_activation_checkpointing_keeps_less_and_computes_the_same(tiny_cfg):
    plain = measure_model(tiny_cfg, (64, 64))
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINT.BACKBONE = True
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINT.HEAD = True
    tiny_cfg.freeze()  # as a loaded config is
    recomputed = measure_model(tiny_cfg, (64, 64))
    assert recomputed.step.kept < plain.step.kept / 2
    assert recomputed.forward == plain.forward


def test_the_size_follows_the_config_unless_it_is_given(tiny_cfg):
    assert measure_model(tiny_cfg).size == (128, 192)
    assert measure_model(tiny_cfg, (64, 32)).size == (64, 32)
    tiny_cfg.INPUT.MIN_SIZE_TEST = 800
    assert input_size(tiny_cfg) == (800, 1216)
    tiny_cfg.INPUT.MAX_SIZE_TEST = 1000
    assert input_size(tiny_cfg) == (800, 992)
    tiny_cfg.INPUT.MIN_SIZE_TEST = 0  # images as they are
    assert input_size(tiny_cfg)[0] == 800


def test_table_worked_by_hand():
    mib = 2**20
    first = ModelCost(
        size=(800, 1216),
        trainable=65_420_112,
        parameters=65_645_392,
        forward=ForwardCost({"backbone": 2 * 10**9, "head": 10**9}, 5_000_000, {"topk", "add"}),
        step=StepMemory(100 * mib, 200 * mib, 100 * mib, 1500 * mib),
    )
    second = ModelCost(
        size=(64, 64),
        trainable=0,
        parameters=0,
        forward=ForwardCost({"interaction": 10**9}, 0, {"add"}),
        step=StepMemory(0, 0, 0, 0, measured=7 * mib),
    )
    text = format_costs({"a.yaml": first, "b.yaml": second})
    lines = re.sub(" +", " ", text).splitlines()
    assert lines[0] == (
        "| config | input | trained M | all M | GFLOPs | backbone | head | interaction "
        "| activations M | state MiB | kept MiB | step MiB | measured MiB |"
    )
    assert lines[2] == (
        "| a.yaml | 800x1216 | 65.4 | 65.6 | 3.00 | 2.00 | 1.00 | | 5.0 | 400 | 1,500 | 1,800 | |"
    )
    assert lines[3].endswith("| 1.00 | | | 1.00 | 0.0 | 0 | 0 | 0 | 7 |")
    assert lines[-1].endswith("free: add, topk.")
    assert "measured MiB" not in format_costs({"a.yaml": first}).splitlines()[0]


def test_configs_are_found(tmp_path):
    for name in ("x/b.yaml", "x/Base-x.yaml", "sweeps/c.yaml", "a.yaml", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_configs(tmp_path) == [tmp_path / "a.yaml", tmp_path / "x/b.yaml"]
    with pytest.raises(UserError, match="no config below"):
        find_configs(tmp_path / "nowhere")

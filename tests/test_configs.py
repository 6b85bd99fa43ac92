from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from torch import nn

from sparsercnn import add_sparsercnn_config, get_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
YAMLS = sorted(path for path in CONFIGS.rglob("*.yaml") if "sweeps" not in path.parts)


@pytest.mark.parametrize("path", YAMLS, ids=[str(path.relative_to(CONFIGS)) for path in YAMLS])
def test_every_config_says_what_it_is_and_builds(path):
    assert path.read_text().startswith("# "), "the first line says what the config reproduces"
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(path), allow_unsafe=False)
    if "timm" in cfg.MODEL.BACKBONE.NAME:
        pytest.importorskip("timm")
    # On the meta device, a model of any size is built in a moment and without memory.
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) > 5e5


def test_there_are_configs():
    assert len(YAMLS) >= 8


def test_the_keys_of_the_original_keep_their_defaults():
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    defaults = {
        "NUM_CLASSES": 80, "NUM_PROPOSALS": 300, "NHEADS": 8, "DROPOUT": 0.0,
        "DIM_FEEDFORWARD": 2048, "ACTIVATION": "relu", "HIDDEN_DIM": 256, "NUM_CLS": 1,
        "NUM_REG": 3, "NUM_HEADS": 6, "NUM_DYNAMIC": 2, "DIM_DYNAMIC": 64, "CLASS_WEIGHT": 2.0,
        "GIOU_WEIGHT": 2.0, "L1_WEIGHT": 5.0, "DEEP_SUPERVISION": True, "NO_OBJECT_WEIGHT": 0.1,
        "USE_FOCAL": True, "ALPHA": 0.25, "GAMMA": 2.0, "PRIOR_PROB": 0.01,
    }  # fmt: skip
    assert {key: cfg.MODEL.SparseRCNN[key] for key in defaults} == defaults
    assert cfg.SOLVER.OPTIMIZER == "ADAMW" and cfg.SOLVER.BACKBONE_MULTIPLIER == 1.0
    assert cfg.TEST.AUG.CVPODS_TTA and cfg.TEST.AUG.SCALE_FILTER
    assert cfg.TEST.AUG.MIN_SIZES[0] == 400 and cfg.TEST.AUG.MIN_SIZES[-2:] == (1800, 800)
    assert len(cfg.TEST.AUG.MIN_SIZES) == len(cfg.TEST.AUG.SCALE_RANGES) == 13


def test_crowdhuman_has_the_schedule_of_its_figure():
    """That of the baseline in Iter-E2EDET."""
    solver = get_config("sparse_rcnn/sparsercnn.crowdhuman.res50.500pro.50e").SOLVER
    assert (solver.BASE_LR, solver.IMS_PER_BATCH) == (0.00005, 16)
    assert (solver.STEPS, solver.MAX_ITER) == ((37500,), 50000)


@pytest.mark.parametrize("aggregation", ["sum", "mssa_adp", "msca_adp"])
def test_attention_fpns_have_the_steps_of_their_authors(aggregation):
    """Steps 8 and 10 of 12 passes over three times the data."""
    solver = get_config(f"attention_fpn/cascade_mask_rcnn.res50.{aggregation}.3x").SOLVER
    assert solver.MAX_ITER == 270000
    assert list(solver.STEPS) == [solver.MAX_ITER * step // 12 for step in (8, 10)]


def load_danet(name):
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "danet" / f"{name}.yaml"))
    return cfg


def test_the_published_danet_is_the_config_that_carries_its_figure():
    carriers = [path.name for path in YAMLS if "66.64" in path.read_text()]
    assert carriers == ["danet.res50.64ch.cityscapes.yaml"]
    cfg = load_danet("danet.res50.64ch.cityscapes")
    assert cfg.MODEL.WEIGHTS.endswith("MSRA/R-50.pkl") and cfg.INPUT.FORMAT == "BGR"
    assert cfg.MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675] and cfg.MODEL.PIXEL_STD == [1.0] * 3
    for sizes, longest in (
        (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN),
        ((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST),
    ):
        shapes = {ResizeShortestEdge.get_output_shape(1024, 2048, x, longest) for x in sizes}
        assert shapes == {(480, 960)}
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (8, 0.01, 24000)
    assert (solver.LR_SCHEDULER_NAME, solver.STEPS) == ("WarmupMultiStepLR", (18000,))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    head, backbone = model.sem_seg_head, model.backbone
    norms = [module for module in head.modules() if isinstance(module, nn.GroupNorm)]
    assert [(norm.num_groups, norm.num_channels) for norm in norms] == [(32, 64)] * 2
    assert head.predictor.weight.shape == (19, 64, 1, 1) and not head.refine
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.output_shape()["res5"].stride == 8
    assert backbone.res3[0].conv1.stride == (2, 2)  # where the MSRA weights have it


@pytest.mark.parametrize("depth", [50, 101])
def test_the_papers_danet_has_its_schedule_and_dropout(depth):
    cfg = load_danet(f"danet_projected.res{depth}.cityscapes")
    assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupPolyLR" and cfg.SOLVER.BASE_LR == 0.01
    assert cfg.SOLVER.POLY_LR_POWER == 0.9
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert model.sem_seg_head.dropout.p == 0.1

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from sparsercnn import add_sparsercnn_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
YAMLS = sorted(path for path in CONFIGS.rglob("*.yaml") if "sweeps" not in path.parts)


@pytest.mark.parametrize("path", YAMLS, ids=[str(path.relative_to(CONFIGS)) for path in YAMLS])
def test_every_config_says_what_it_is_and_builds(path):
    assert path.read_text().startswith("# "), "the first line says what the config reproduces"
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(path), allow_unsafe=False)
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

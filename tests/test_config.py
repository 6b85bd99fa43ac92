"""TEST.DETECTIONS_PER_IMAGE: what Sparse R-CNN and detectron2's own models make of it."""

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from sparsercnn import SparseRCNNWithTTA, add_sparsercnn_config
from sparsercnn.engine.setup import load_config

KEY = "TEST.DETECTIONS_PER_IMAGE"


def make_cfg(*opts):
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_list(opts)
    return cfg


def limits(cfg):
    """Of a model on the meta device, and of its test-time augmentation."""
    cfg.MODEL.DEVICE = "meta"
    model = build_model(cfg)
    return model.max_detections, SparseRCNNWithTTA(cfg, model).max_detections


@pytest.mark.parametrize(
    "opts,expected",
    [
        ([], 300),
        (["MODEL.SparseRCNN.NUM_PROPOSALS", 40], 40),
        (["MODEL.SparseRCNN.NUM_PROPOSALS", 500], 500),
        ([KEY, 100], 100),
        ([KEY, 40], 40),
        ([KEY, 400], 300),
        ([KEY, -1], 300),  # no limit, to detectron2
    ],
)
def test_all_proposals_are_kept_unless_fewer_are_asked_for(tiny_cfg, tmp_path, opts, expected):
    tiny_cfg.MODEL.SparseRCNN.NUM_PROPOSALS = 300
    tiny_cfg.merge_from_list(opts)
    assert limits(tiny_cfg.clone()) == (expected, expected)
    # A run writes its config, and others start from it.
    (tmp_path / "config.yaml").write_text(tiny_cfg.dump())
    again = make_cfg()
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert limits(again) == (expected, expected)


@pytest.mark.parametrize(
    "name,expected",
    [
        ("sparse_rcnn/sparsercnn.res50.300pro.3x.yaml", 300),
        ("sparse_rcnn/sparsercnn.res101.300pro.3x.yaml", 300),
        ("dynamic/dynamic_sparsercnn.res50.300pro.3x.yaml", 300),
        ("sparse_rcnn/sparsercnn.crowdhuman.res50.500pro.50e.yaml", 500),
        ("sparse_rcnn/sparsercnn.res50.100pro.3x.yaml", 100),
    ],
)
def test_published_configs_keep_all_proposals(repository, name, expected):
    path = str(repository / "configs" / name)
    cfg = load_config(path, register=False).clone()
    cfg.defrost()
    assert limits(cfg)[0] == expected


RETINANET = """
MODEL:
  META_ARCHITECTURE: "RetinaNet"
  DEVICE: "meta"
  BACKBONE: {NAME: "build_retinanet_resnet_fpn_backbone"}
  RESNETS: {OUT_FEATURES: ["res3", "res4", "res5"]}
  FPN: {IN_FEATURES: ["res3", "res4", "res5"]}
  ANCHOR_GENERATOR: {SIZES: [[32]]}
VERSION: 2
"""


@pytest.mark.parametrize("opts,expected", [([], 100), ([KEY, "7"], 7), ([KEY, "100"], 100)])
def test_models_of_detectron2_keep_its_default(tmp_path, opts, expected):
    (tmp_path / "retinanet.yaml").write_text(RETINANET)
    cfg = load_config(str(tmp_path / "retinanet.yaml"), opts, register=False)
    assert build_model(cfg).max_detections_per_image == expected
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = load_config(str(tmp_path / "config.yaml"), register=False)
    assert build_model(again).max_detections_per_image == expected


def test_cascades_keep_a_hundred_without_this_projects_scripts(repository):
    cfg = make_cfg()
    cfg.merge_from_file(
        str(repository / "configs/attention_fpn/cascade_mask_rcnn.res50.msca.1x.yaml")
    )
    cfg.MODEL.DEVICE = "meta"
    assert build_model(cfg).roi_heads.box_predictor[-1].test_topk_per_image == 100


def test_what_was_set_before_the_keys_are_added_stays():
    cfg = get_cfg()
    cfg.TEST.DETECTIONS_PER_IMAGE = 30
    add_sparsercnn_config(cfg)
    add_sparsercnn_config(cfg)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 30

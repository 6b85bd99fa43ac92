import pytest
from detectron2.modeling import build_backbone
from torch import nn

from sparsercnn import get_config
from sparsercnn.engine.data_parallel import distribute, leaves_maps_unread

COARSER = "['p3', 'p4', 'p5']"


@pytest.mark.parametrize(
    "config, opts, expected",
    [
        ("sparsercnn", [], False),
        ("sparsercnn", ["MODEL.ROI_HEADS.IN_FEATURES", COARSER], True),
        ("cascade_mask_rcnn", ["MODEL.ROI_HEADS.IN_FEATURES", COARSER], False),  # the RPN has p2
        ("danet", [], False),
        ("danet", ["MODEL.RESNETS.OUT_FEATURES", "['res3', 'res4']"], False),
        ("danet", ["MODEL.RESNETS.OUT_FEATURES", "['res4', 'res5']"], True),
        (
            "danet",
            [
                *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
                *("MODEL.RESNETS.RES4_DILATION", "1", "MODEL.RESNETS.RES5_DILATION", "1"),
                *("MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.DEPTH", "50"),
                *("MODEL.RESNETS.OUT_FEATURES", "['res4', 'res5']"),
                *("MODEL.FPN.IN_FEATURES", "['res4', 'res5']"),
                *("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p4']"),
            ],
            True,
        ),
    ],
)
def test_maps_that_no_head_reads_are_found(config, opts, expected):
    cfg = get_config(f"quickstart/{config}", opts)
    assert leaves_maps_unread(cfg.MODEL, build_backbone(cfg)) == expected


def test_models_of_other_kinds_are_as_ever():
    cfg = get_config("quickstart/danet")
    model = nn.Linear(1, 1)
    assert distribute(cfg, model) is model  # a single process
    assert not leaves_maps_unread(cfg.MODEL, None)
    cfg.MODEL.META_ARCHITECTURE = "AnothersModel"
    assert not leaves_maps_unread(cfg.MODEL, build_backbone(cfg))

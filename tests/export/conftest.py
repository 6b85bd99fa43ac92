"""Small models of each system as if they were trained, and their exported files."""

import math
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn

from sparsercnn import add_sparsercnn_config
from sparsercnn.inference.class_names import ClassNames

_TINY = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8]
_TINY_FPN = ["MODEL.FPN.OUT_CHANNELS", 32]
_TINY_SPARSE = [
    *_TINY_FPN,
    *("MODEL.SparseRCNN.HIDDEN_DIM", 32, "MODEL.SparseRCNN.NHEADS", 4),
    *("MODEL.SparseRCNN.DIM_FEEDFORWARD", 64, "MODEL.SparseRCNN.DIM_DYNAMIC", 8),
    *("MODEL.SparseRCNN.NUM_HEADS", 2),
]
_TINY_CASCADE = [*_TINY_FPN, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 64]
_ATTENTION_FPN = ["MODEL.BACKBONE.NAME", "build_resnet_attention_fpn_backbone"]

# Name -> quickstart config and changes to it.
SYSTEMS = {
    "sparsercnn": ("sparsercnn", _TINY_SPARSE),
    "softmax and NMS": (
        "sparsercnn",
        [
            *_TINY_SPARSE,
            *("MODEL.SparseRCNN.USE_FOCAL", False, "MODEL.SparseRCNN.NMS_THRESH_TEST", 0.6),
            *("MODEL.SparseRCNN.SCORE_THRESH_TEST", 0.1, "TEST.DETECTIONS_PER_IMAGE", 15),
        ],
    ),
    "dual attention": (
        "dual_attention",
        [*_TINY_SPARSE, "MODEL.SparseRCNN.DUAL_ATTENTION.NUM_CBAM", 2],
    ),
    "dynamic": ("dynamic_sparsercnn", _TINY_SPARSE),
    "msca_adp": ("sparsercnn.msca_adp", _TINY_SPARSE),
    "mssa": ("sparsercnn", [*_TINY_SPARSE, *_ATTENTION_FPN, "MODEL.FPN.AGGREGATION", "mssa"]),
    "res5 attention": ("sparsercnn.res5_attention", _TINY_SPARSE),
    "convnext": ("sparsercnn.convnext", _TINY_SPARSE),
    "vit": (
        "sparsercnn.vit",
        [
            *_TINY_SPARSE,
            *("MODEL.VIT.DEPTH", 2, "MODEL.VIT.EMBED_DIM", 32, "MODEL.VIT.GLOBAL_BLOCKS", [1]),
        ],
    ),
    "masks": (
        "sparsercnn",
        [
            *_TINY_SPARSE,
            *("MODEL.MASK_ON", True, "MODEL.SparseRCNN.MASK.POOLER_RESOLUTION", 7),
            *("MODEL.SparseRCNN.MASK.NUM_CONV", 2, "MODEL.SparseRCNN.MASK.CONV_DIM", 16),
            *("MODEL.SparseRCNN.NMS_THRESH_TEST", 0.6, "TEST.DETECTIONS_PER_IMAGE", 15),
        ],
    ),
    "cascade": ("cascade_mask_rcnn", _TINY_CASCADE),
    "cascade of masks": (
        "cascade_mask_rcnn",
        [*_TINY_CASCADE, "MODEL.ROI_HEADS.NAME", "CascadeMaskROIHeads"],
    ),
    "danet": ("danet", [*_TINY, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16]),
    "danet projected": (
        "danet",
        [*_TINY, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16, "MODEL.DANET.ATTENTION", "projected"],
    ),
}
LABELS = ClassNames(["mug", "spoon", "plate"], ["table", "mug", "spoon", "plate"], {0: 7})


def make_cfg(repository, system):
    """The config of a system, at a size that is built in a moment."""
    name, options = SYSTEMS[system]
    if system == "convnext":
        pytest.importorskip("timm")
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(repository / f"configs/quickstart/{name}.yaml"))
    cfg.merge_from_list(list(options))
    cfg.MODEL.DEVICE = "cpu"
    if cfg.TEST.DETECTIONS_PER_IMAGE < 0 and cfg.MODEL.META_ARCHITECTURE != "SparseRCNN":
        cfg.TEST.DETECTIONS_PER_IMAGE = 100
    return cfg


@torch.no_grad()
def make_model(cfg):
    """A model of the config whose norms, scores and steps of boxes are as if it were trained."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
        if hasattr(module, "gamma"):  # of projected attention, which starts at 0
            module.gamma.fill_(0.5)
    for name, parameter in model.named_parameters():
        if name.endswith("bboxes_delta.weight"):
            # Trained stages move boxes little. Untrained ones throw them about, and amplify
            # differences in rounding with that.
            parameter.mul_(0.1)
        elif name.endswith("class_logits.bias") and parameter.max() < -1:
            parameter.fill_(-math.log(4))  # scores about 0.2, not 0.01
    if hasattr(model, "sem_seg_head"):
        # Of untrained features all are alike: without this, one class would win everywhere.
        image = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)
        logits = model([{"image": image}])[0]["sem_seg"]
        model.sem_seg_head.predictor.bias.sub_(logits.mean((1, 2)))
    return model


@pytest.fixture
def small(repository):
    """Config and model of a system, by name."""

    def make(system):
        cfg = make_cfg(repository, system)
        return cfg, make_model(cfg)

    return make


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The path of a system's exported file in a format; each system is traced once."""
    from sparsercnn.export.exporters import FORMATS, Traced, build_graph
    from sparsercnn.export.graph import smallest_side
    from sparsercnn.export.metadata import describe

    traced = {}

    def export(system, form):
        if system not in traced:
            cfg = make_cfg(Path(__file__).resolve().parents[2], system)
            graph = build_graph(make_model(cfg))
            metadata = describe(cfg, graph, smallest_side(graph.model), "uint8", LABELS)
            folder = tmp_path_factory.mktemp("exported")
            traced[system] = Traced(graph, metadata), folder
        program, folder = traced[system]
        ending, write, *_ = FORMATS[form]
        path = folder / f"model{ending}"
        if not path.exists():
            write(program, path, None)
        return str(path)

    return export


@pytest.fixture
def pictures():
    """Three sizes, in batches of one and of two: small, no multiple of 32, and wide."""

    def make(height, width):
        # Coarse, as pictures are; of noise all parts look alike.
        coarse = torch.rand(1, 3, height // 12 + 1, width // 12 + 1) * 255
        image = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        return {"image": image[0].clamp(0, 255).byte(), "height": 2 * height, "width": 2 * width}

    return [[make(64, 64)], [make(97, 130), make(120, 75)], [make(128, 250)]]


@pytest.fixture
def labels():
    return LABELS

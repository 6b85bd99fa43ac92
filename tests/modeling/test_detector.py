import json

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import ImageList, PolygonMasks
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou

from sparsercnn import add_sparsercnn_config
from sparsercnn.modeling import (
    IterativeHead,
    LearnedProposals,
    SparseRCNN,
)
from sparsercnn.modeling.pooler import _Maps

ORIGINAL_YAML = """
_BASE_: "base.yaml"
MODEL:
  WEIGHTS: "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
  RESNETS:
    DEPTH: 50
    STRIDE_IN_1X1: False
  SparseRCNN:
    NUM_PROPOSALS: 100
    NUM_CLASSES: 80
DATASETS:
  TRAIN: ("coco_2017_train",)
  TEST:  ("coco_2017_val",)
SOLVER:
  STEPS: (210000, 250000)
  MAX_ITER: 270000
INPUT:
  CROP:
    ENABLED: False
  FORMAT: "RGB"
"""
ORIGINAL_BASE_YAML = """
MODEL:
  META_ARCHITECTURE: "SparseRCNN"
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  BACKBONE:
    NAME: "build_resnet_fpn_backbone"
  RESNETS:
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
  FPN:
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
  ROI_HEADS:
    IN_FEATURES: ["p2", "p3", "p4", "p5"]
  ROI_BOX_HEAD:
    POOLER_TYPE: "ROIAlignV2"
    POOLER_RESOLUTION: 7
    POOLER_SAMPLING_RATIO: 2
SOLVER:
  OPTIMIZER: "ADAMW"
  BACKBONE_MULTIPLIER: 1.0
  CLIP_GRADIENTS:
    ENABLED: True
    CLIP_TYPE: "full_model"
    CLIP_VALUE: 1.0
    NORM_TYPE: 2.0
VERSION: 2
"""


@pytest.fixture(scope="module")
def published_model(tmp_path_factory):
    """R50, 100 proposals, from a YAML as people have it from the original project."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "base.yaml").write_text(ORIGINAL_BASE_YAML)
    (folder / "model.yaml").write_text(ORIGINAL_YAML)
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.merge_from_file(str(folder / "model.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def test_state_dict_is_that_of_the_published_checkpoints(published_model, repository):
    path = repository / "tests/modeling/data/sparsercnn_r50_100pro_state_dict.json"
    expected = json.loads(path.read_text())
    ours = {name: list(value.shape) for name, value in published_model.state_dict().items()}
    assert ours == expected


def test_number_of_parameters(published_model):
    trainable = sum(p.numel() for p in published_model.parameters() if p.requires_grad)
    assert trainable == 106_015_368
    # The published 106.1 M count the scale and shift of res3 to res5's batch norms, which
    # detectron2 keeps as buffers: it freezes them.
    norms = sum(
        value.numel()
        for name, value in published_model.state_dict().items()
        if any(stage in name for stage in ("res3", "res4", "res5"))
        and name.endswith(("norm.weight", "norm.bias"))
    )
    assert round((trainable + norms) / 1e6, 1) == 106.1


def test_state_dict_round_trip_under_any_prefix(tiny_cfg):
    model = build_model(tiny_cfg)
    other = build_model(tiny_cfg)
    assert not other.load_state_dict(model.state_dict()).missing_keys
    wrapped = nn.ModuleDict({"module": other})
    state = wrapped.state_dict()
    assert "module.init_proposal_boxes.weight" in state
    wrapped.load_state_dict(state)
    torch.testing.assert_close(other.state_dict(), model.state_dict())


def test_detectron2s_own_checkpointer_leaves_out_what_does_not_fit(tiny_cfg, tmp_path):
    tiny_cfg.MODEL.SparseRCNN.PROPOSALS.NAME = "dynamic"
    saved = build_model(tiny_cfg)
    torch.save({"model": saved.state_dict()}, tmp_path / "model.pth")
    tiny_cfg.MODEL.SparseRCNN.NUM_PROPOSALS += 3
    model = build_model(tiny_cfg)
    before = model.proposals.init_proposal_boxes.weight.clone()
    DetectionCheckpointer(model).load(str(tmp_path / "model.pth"))
    assert torch.equal(model.proposals.init_proposal_boxes.weight, before)
    weights = [x.head.head_series[0].self_attn.in_proj_weight for x in (model, saved)]
    assert torch.equal(*weights)


def test_gradient_reaches_every_parameter(tiny_cfg, make_input):
    model = build_model(tiny_cfg)
    sum(model([make_input((64, 96), [[5, 5, 40, 40]], [1])]).values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


ODD_BATCHES = {
    "no objects at all": [((64, 64), [], []), ((64, 96), [], [])],
    "an image without objects": [((64, 64), [[1, 1, 20, 20]], [0]), ((64, 96), [], [])],
    "more objects than proposals": [
        ((64, 64), [[i, i, i + 20, i + 20] for i in range(9)], [0] * 9)
    ],
    "mixed sizes": [((33, 97), [[1, 1, 20, 20]], [0]), ((128, 40), [[1, 1, 30, 99]], [2])],
}


@pytest.mark.parametrize("images", ODD_BATCHES.values(), ids=ODD_BATCHES.keys())
@pytest.mark.parametrize("use_focal", [True, False])
def test_odd_batches_train(tiny_cfg, make_input, images, use_focal):
    tiny_cfg.MODEL.SparseRCNN.USE_FOCAL = use_focal
    model = build_model(tiny_cfg)
    inputs = [make_input(*image) for image in images]
    losses = model(inputs)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "key,value",
    [("NUM_PROPOSALS", 1), ("NUM_HEADS", 1), ("NUM_CLASSES", 1), ("DEEP_SUPERVISION", False)],
)
def test_smallest_models_train_and_detect(tiny_cfg, make_input, key, value):
    setattr(tiny_cfg.MODEL.SparseRCNN, key, value)
    model = build_model(tiny_cfg)
    inputs = [make_input((64, 64), [[1, 1, 20, 20], [3, 3, 40, 40]], [0, 0])]
    losses = model(inputs)
    sum(losses.values()).backward()
    stages = tiny_cfg.MODEL.SparseRCNN.NUM_HEADS if key != "DEEP_SUPERVISION" else 1
    assert len(losses) == 3 * stages
    with torch.no_grad():
        (result,) = model.eval()(inputs)
    assert len(result["instances"]) <= tiny_cfg.MODEL.SparseRCNN.NUM_PROPOSALS


def test_overfits_four_images(tiny_cfg):
    tiny_cfg.MODEL.SparseRCNN.NUM_PROPOSALS = 10
    model = build_model(tiny_cfg)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    inputs = [_coloured_rectangle(i) for i in range(4)]
    for _ in range(110):
        losses = model(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        results = model.eval()(inputs)
    for x, result in zip(inputs, results, strict=True):
        best = result["instances"][0]
        assert best.pred_classes == x["instances"].gt_classes
        assert box_iou(best.pred_boxes.tensor, x["instances"].gt_boxes.tensor) > 0.6


def _coloured_rectangle(i):
    from detectron2.structures import Boxes, Instances

    box = torch.tensor([[8.0 + 6 * i, 10, 34 + 6 * i, 30 + 8 * i]])
    image = torch.full((3, 64, 64), 100, dtype=torch.uint8)
    x1, y1, x2, y2 = box[0].int().tolist()
    image[i % 3, y1:y2, x1:x2] = 255
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(box)
    instances.gt_classes = torch.tensor([i % 3])
    return {"image": image, "instances": instances}


class _PointwiseBackbone(nn.Module):
    """A pyramid in which no pixel sees another, so that padding has no way in."""

    size_divisibility = 32

    def __init__(self, channels):
        super().__init__()
        self.project = nn.Conv2d(3, channels, 1, bias=False)

    def forward(self, x):
        levels = {f"p{i}": nn.functional.avg_pool2d(x, 2**i) for i in range(2, 6)}
        return {name: self.project(level) for name, level in levels.items()}


def test_padding_an_image_does_not_change_its_boxes(tiny_cfg, make_input):
    """Proposals are scaled by the image's own size, and see nothing of the other images."""
    from detectron2.layers import ShapeSpec

    shape = {f"p{i}": ShapeSpec(channels=32, stride=2**i) for i in range(2, 6)}
    proposals = LearnedProposals(num_proposals=4, hidden_dim=32)
    with torch.no_grad():
        proposals.init_proposal_boxes.weight.copy_(torch.tensor([0.4, 0.4, 0.3, 0.4]))
    model = SparseRCNN(
        backbone=_PointwiseBackbone(32),
        proposals=proposals,
        head=IterativeHead(tiny_cfg, shape),
        criterion=None,
        in_features=["p2", "p3", "p4", "p5"],
        pixel_mean=[100.0, 110.0, 120.0],
        pixel_std=[50.0, 60.0, 70.0],
    ).eval()
    for stage in model.head.head_series:  # so that boxes stay where no padding is in sight
        nn.init.normal_(stage.bboxes_delta.weight, std=1e-3)
        nn.init.zeros_(stage.bboxes_delta.bias)
    small, large = make_input((128, 160)), make_input((256, 192))
    with torch.no_grad():
        (alone,) = model([small])
        batched, _ = model([small, large])
    torch.testing.assert_close(
        batched["instances"].pred_boxes.tensor, alone["instances"].pred_boxes.tensor
    )
    torch.testing.assert_close(batched["instances"].scores, alone["instances"].scores)


@pytest.fixture
def inference_model(tiny_cfg):
    model = build_model(tiny_cfg).eval()
    model.max_detections = 100
    return model


LOGITS = torch.tensor([[[4.0, -4, -4], [3.0, -4, -4], [-4.0, 2, -4]]])
BOXES = torch.tensor([[[0.0, 0, 50, 50], [0, 0, 50, 52], [10, 10, 60, 60]]])


def test_inference_keeps_the_best_scores_of_all_classes(inference_model):
    (result,) = inference_model.inference(LOGITS, BOXES, [(80, 90)])
    assert result.image_size == (80, 90)
    assert result.pred_classes.tolist() == [0, 0, 1]
    torch.testing.assert_close(result.scores, torch.tensor([4.0, 3.0, 2.0]).sigmoid())
    torch.testing.assert_close(result.pred_boxes.tensor, BOXES[0])


def test_inference_obeys_the_thresholds(inference_model):
    inference_model.score_thresh = 0.9
    (result,) = inference_model.inference(LOGITS, BOXES, [(80, 90)])
    assert result.pred_classes.tolist() == [0, 0]
    inference_model.nms_thresh = 0.7
    (result,) = inference_model.inference(LOGITS, BOXES, [(80, 90)])
    torch.testing.assert_close(result.pred_boxes.tensor, BOXES[0, :1])
    inference_model.score_thresh = inference_model.nms_thresh = 0.0
    inference_model.max_detections = 2
    (result,) = inference_model.inference(LOGITS, BOXES, [(80, 90)])
    assert len(result) == 2


def test_inference_drops_what_is_not_finite_and_says_so(inference_model, caplog):
    boxes = BOXES.clone()
    boxes[0, 0, 3] = float("nan")
    (result,) = inference_model.inference(LOGITS, boxes, [(80, 90)])
    assert result.pred_classes.tolist() == [0, 1, 2] or len(result) == 3
    assert result.pred_boxes.tensor.isfinite().all()
    assert "non-finite" in caplog.text


def test_softmax_inference_gives_each_box_one_class(tiny_cfg):
    tiny_cfg.MODEL.SparseRCNN.USE_FOCAL = False
    model = build_model(tiny_cfg).eval()
    logits = torch.tensor([[[4.0, 3, 0, 1], [0, 0, 1, 5.0]]])
    (result,) = model.inference(logits, BOXES[:, :2], [(80, 90)])
    assert result.pred_classes.tolist() == [0, 2]
    torch.testing.assert_close(result.scores[0], logits[0, 0].softmax(0)[0])


def test_detections_are_scaled_to_the_output_size(inference_model, make_input):
    x = make_input((64, 96))
    with torch.no_grad():
        (bare,) = inference_model([x], do_postprocess=False)
        (scaled,) = inference_model([{**x, "height": 128, "width": 192}])
    bare.pred_boxes.clip((64, 96))
    bare = bare[bare.pred_boxes.nonempty()]
    torch.testing.assert_close(scaled["instances"].pred_boxes.tensor, bare.pred_boxes.tensor * 2)


def test_images_are_normalised_and_padded(inference_model):
    images, sizes = inference_model.preprocess_images(
        [
            {"image": torch.full((3, 40, 50), 100, dtype=torch.uint8)},
            {"image": torch.zeros(3, 60, 30)},
        ]
    )
    assert isinstance(images, ImageList) and images.tensor.shape == (2, 3, 64, 64)
    assert sizes.tolist() == [[50, 40, 50, 40], [30, 60, 30, 60]]
    mean, std = inference_model.pixel_mean, inference_model.pixel_std
    torch.testing.assert_close(
        images.tensor[0, :, :40, :50], ((100 - mean) / std).expand(3, 40, 50)
    )
    assert images.tensor[0, :, 40:].eq(0).all()


def test_training_and_inference_pad_each_to_few_sizes(tiny_cfg, make_input):
    tiny_cfg.INPUT.SIZE_BUCKET = 96
    tiny_cfg.TEST.SIZE_BUCKET = 160
    model = build_model(tiny_cfg)
    assert model.backbone.size_divisibility == 32
    inputs = [make_input((65, 90), [[5, 5, 40, 40]], [1])]
    images, sizes = model.preprocess_images(inputs)
    assert images.tensor.shape[2:] == (96, 96) and images.image_sizes == [(65, 90)]
    assert sizes.tolist() == [[90, 65, 90, 65]]
    model.size_bucket = 80  # not a multiple of 32: of 160 and so of both
    assert model.preprocess_images(inputs)[0].tensor.shape[2:] == (160, 160)
    model.eval()
    assert model.preprocess_images(inputs)[0].tensor.shape[2:] == (160, 160)
    model.test_size_bucket = 0
    assert model.preprocess_images(inputs)[0].tensor.shape[2:] == (96, 96)
    model.train()
    model.size_bucket = 0
    assert model.preprocess_images(inputs)[0].tensor.shape[2:] == (96, 96)


class _Waits(TorchDispatchMode):
    """Operations whose result the host must know before it can go on."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal") or any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("matcher", ["hungarian", "optimal_transport"])
@pytest.mark.parametrize("masks", [False, True])
def test_training_waits_for_the_device_in_the_matching_alone(
    tiny_cfg, make_input, monkeypatch, masks, matcher
):
    tiny_cfg.MODEL.MASK_ON, tiny_cfg.MODEL.SparseRCNN.MATCHER.NAME = masks, matcher
    model = build_model(tiny_cfg)
    # As on a GPU; the CPU's way of pooling does not wait either.
    monkeypatch.setattr(
        model.head.box_pooler,
        "prepare",
        lambda x: x if isinstance(x, _Maps) else _Maps(x, dtype=torch.float32),
    )
    inputs = [make_input((64, 96), [[5, 5, 40, 40]], [1]), make_input((96, 64))]
    inputs[0]["instances"].gt_masks = PolygonMasks([[[5, 5, 40, 5, 40, 40]]])
    # Padding computes with sizes that are on the host, which the mode cannot tell.
    prepared = model.preprocess_images(inputs)
    monkeypatch.setattr(model, "preprocess_images", lambda _: prepared)
    with _Waits() as forward:
        losses = model(inputs)
    assert forward.found == []
    with _Waits() as backward:
        sum(losses.values()).backward()
    assert backward.found == []
    with _Waits() as control:
        assert losses["loss_ce"] > 0
    assert control.found

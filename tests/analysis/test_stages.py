"""What is recorded of the stages is what the model does and what training computes."""

import pytest
import torch
from detectron2.modeling import build_model

from sparsercnn.analysis.stages import StageRecorder
from sparsercnn.errors import UserError


@pytest.fixture(scope="module")
def boxes():
    return torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.3, 0.1, 0.8, 0.4]])


def test_a_trace_is_what_the_model_does(tiny_cfg, make_instances, boxes):
    tiny_cfg.MODEL.DEVICE = "cpu"
    tiny_cfg.MODEL.SparseRCNN.MATCHER.NAME = "optimal_transport"
    model = build_model(tiny_cfg).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with StageRecorder(model) as recorder, torch.no_grad():
        found = model([{"image": image}], all_stages=True)[0]
    classes = torch.tensor([0, 1])
    trace = recorder.trace(boxes, classes)
    assert trace.boxes.shape == (3, 6, 4) and trace.num_objects == 2
    assert trace.boxes[0] == pytest.approx(torch.tensor([0.0, 0, 1, 1]).expand(6, 4), abs=1e-6)
    scale = torch.tensor([96.0, 64, 96, 64])
    for t, stage in enumerate(found):
        instances = stage["instances"]
        clipped = trace.boxes[t + 1].clamp(0, 1)
        inside = (clipped[:, 2:] > clipped[:, :2]).all(1)  # detections without area are dropped
        proposal = torch.where(inside, trace.scores[t], -1).argmax()
        best = instances.scores.argmax()
        assert trace.scores[t][proposal] == pytest.approx(instances.scores[best].item())
        assert trace.classes[t][proposal] == instances.pred_classes[best]
        expected = instances.pred_boxes.tensor[best].tolist()
        assert (clipped[proposal] * scale).tolist() == pytest.approx(expected, abs=1e-3)
    # The loss is that of training, of the last stage, and the positives those of its matcher.
    target = make_instances((64, 96), (boxes * scale).tolist(), [0, 1])
    model.training = True  # but not its batch norms
    losses = model([{"image": image, "instances": target}])
    last = sum(losses[name].item() for name in ("loss_ce", "loss_bbox", "loss_giou"))
    assert trace.loss == pytest.approx(last, rel=1e-4)
    assert (trace.positives >= 2).all() and (trace.positives <= 6).all()


def test_an_image_without_objects_has_a_loss(tiny_cfg):
    tiny_cfg.MODEL.DEVICE = "cpu"
    model = build_model(tiny_cfg).eval()
    with StageRecorder(model) as recorder, torch.no_grad():
        model([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}])
    trace = recorder.trace(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert trace.loss > 0 and trace.num_objects == 0 and not trace.positives.any()


def test_wrong_uses_are_told(tiny_cfg, boxes):
    with pytest.raises(UserError, match="no stages"):
        StageRecorder(torch.nn.Identity())
    tiny_cfg.MODEL.DEVICE = "cpu"
    recorder = StageRecorder(build_model(tiny_cfg).eval())
    with pytest.raises(ValueError, match="Nothing was recorded"):
        recorder.trace(boxes, torch.tensor([0, 1]))

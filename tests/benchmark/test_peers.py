import pytest
import torch

from sparsercnn.analysis import calm_frozen_norms, make_batch
from sparsercnn.benchmark.peers import PEERS, DetrPeer, FasterRCNNPeer

SIZE = (64, 96)


def _build(peer):
    if peer is DetrPeer:
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    return calm_frozen_norms(peer(SIZE))


@pytest.mark.parametrize("peer", PEERS.values())
def test_losses_in_training_and_a_list_in_inference(peer):
    model, batch = _build(peer), make_batch(SIZE, 2)
    losses = model.train()(batch)
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    with torch.inference_mode():
        detections = model.eval()(batch)
    assert len(detections) == 2
    assert all(x["boxes"].shape == (len(x["scores"]), 4) for x in detections)


def test_torchvision_does_not_resize_and_trains_what_fine_tuning_does():
    model = _build(FasterRCNNPeer).eval()
    seen = []
    model.detector.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.inference_mode():
        model(make_batch(SIZE))
    assert seen[0].shape == (1, 3, *SIZE)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert all(".conv1." in name or ".layer1." in name for name in frozen) and frozen
    # A published figure of torchvision's model card: 41.8 M with its batch norms' parameters.
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(41.7e6, rel=0.01)


def test_detr_boxes_are_pixels():
    model = _build(DetrPeer).eval()
    # 0.5 of each: the box of the centre, as large as half the image.
    for layer in model.detector.bbox_predictor.layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.inference_mode():
        (detections,) = model(make_batch(SIZE))
    expected = torch.tensor([24.0, 16.0, 72.0, 48.0])
    assert detections["boxes"].shape == (100, 4)
    assert (detections["boxes"] - expected).abs().max() < 1e-3

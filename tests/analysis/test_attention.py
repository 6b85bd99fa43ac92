import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from sparsercnn.analysis.attention import AttentionRecorder, StageAttention, draw_attention

SIZE = (64, 96)


@pytest.fixture
def model(tiny_cfg):
    tiny_cfg.MODEL.SparseRCNN.INTERACTION = "dual_attention"
    tiny_cfg.MODEL.SparseRCNN.DUAL_ATTENTION.NUM_CBAM = 3
    tiny_cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 5
    return build_model(tiny_cfg).eval()


def record(model, image, index=0):
    with AttentionRecorder(model) as recorder, torch.no_grad():
        model([{"image": image}])
    return recorder.detection(index)


def test_every_stage_of_the_detected_proposal_is_recorded(model):
    image = torch.randint(0, 256, (3, *SIZE))
    with torch.no_grad():
        (expected,) = model([{"image": image}], do_postprocess=False)
    for index in (0, 3):
        found, stages = record(model, image, index)
        torch.testing.assert_close(found.scores, expected.scores[index : index + 1])
        torch.testing.assert_close(
            found.pred_boxes.tensor, expected.pred_boxes.tensor[index : index + 1]
        )
        assert [stage.channels.shape for stage in stages] == [(3, 32)] * 2
        assert [stage.positions.shape for stage in stages] == [(3, 5, 5)] * 2
        torch.testing.assert_close(stages[0].box, torch.tensor([0.0, 0, 1, 1]))


def test_attention_is_that_of_the_proposal_and_of_its_box(model):
    """Proposals that are told apart by what their gates and boxes are made from."""
    image = torch.randint(0, 256, (3, *SIZE))
    seen = {}
    stage = model.head.head_series[1]
    hook = stage.register_forward_pre_hook(lambda module, args: seen.update(boxes=args[1]))
    gate = stage.inst_interact.cbam[2].channel_gate
    hook2 = gate.register_forward_hook(lambda module, args, out: seen.update(c=out))
    found, stages = record(model, image, 2)
    hook.remove()
    hook2.remove()
    with torch.no_grad():
        images, sizes = model.preprocess_images([{"image": image}])
        maps = model.backbone(images.tensor)
        _, boxes, _ = model.head(
            [maps[name] for name in model.in_features], *model.proposals(list(maps.values()), sizes)
        )
    (proposal,) = (boxes[-1, 0] == found.pred_boxes.tensor).all(1).nonzero()[0].tolist()
    torch.testing.assert_close(stages[1].box * sizes[0], seen["boxes"][0, proposal])
    torch.testing.assert_close(stages[1].channels[2], seen["c"][proposal].flatten())
    others = [i for i in range(6) if i != proposal]
    assert all(not torch.allclose(stages[1].channels[2], seen["c"][i].flatten()) for i in others)


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_cap_on_rois_changes_nothing(model, chunk):
    image = torch.randint(0, 256, (3, *SIZE))
    _, expected = record(model, image)
    for stage in model.head.head_series:
        stage.inst_interact.roi_chunk = chunk
    _, stages = record(model, image)
    for a, b in zip(stages, expected, strict=True):
        torch.testing.assert_close(a.channels, b.channels)
        torch.testing.assert_close(a.positions, b.positions)


def test_static_attention_is_recorded_too(tiny_cfg):
    tiny_cfg.MODEL.SparseRCNN.INTERACTION = "dual_attention"
    tiny_cfg.MODEL.SparseRCNN.DUAL_ATTENTION.DYNAMIC_CBAM = False
    _, stages = record(build_model(tiny_cfg).eval(), torch.zeros(3, *SIZE))
    assert stages[1].channels.shape == (4, 32) and stages[1].positions.shape == (4, 7, 7)


def test_the_model_is_left_as_it_was(model):
    record(model, torch.zeros(3, *SIZE))
    modules = list(model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_what_cannot_be_recorded_is_said(model, tiny_cfg):
    image = {"image": torch.zeros(3, *SIZE)}
    with pytest.raises(ValueError, match="There is no detection 6: the image has 6"):
        record(model, image["image"], 6)
    with pytest.raises(ValueError, match="Nothing was recorded"):
        AttentionRecorder(model).detection(0)
    with AttentionRecorder(model), torch.no_grad(), pytest.raises(ValueError, match="one image"):
        model([image, image])
    tiny_cfg.MODEL.SparseRCNN.INTERACTION = "dynamic_conv"
    with pytest.raises(ValueError, match=r"SparseRCNN.INTERACTION 'dual_attention'"):
        AttentionRecorder(build_model(tiny_cfg))
    tiny_cfg.MODEL.SparseRCNN.INTERACTION = "dual_attention"
    tiny_cfg.MODEL.SparseRCNN.DUAL_ATTENTION.NUM_CBAM = 0
    with pytest.raises(ValueError, match="NUM_CBAM of 1 or more"):
        AttentionRecorder(build_model(tiny_cfg))


def test_the_picture_has_a_map_and_a_strip_for_each_repetition(tmp_path):
    positions = torch.zeros(2, 3, 3)
    positions[1, 0, 2] = 1.0
    box = torch.tensor([0.25, 0.5, 0.75, 1.0])
    channels = torch.rand(2, 8)
    degenerate = StageAttention(torch.tensor([0.5, 0.5, 0.5, 0.5]), channels, positions)
    stages = [StageAttention(box, channels, positions), degenerate]
    figure = draw_attention(np.full((40, 80, 3), 90, np.uint8), stages, "$a^$")
    assert len(figure.axes) == 2 * (1 + 2 * 2) + 1  # the last is the scale of the colours
    whole, _, _, over_roi2, strip2 = figure.axes[:5]
    assert whole.patches[0].get_bbox().bounds == (20, 20, 40, 20)
    image, attention = over_roi2.images
    assert list(image.get_extent()) == [0, 80, 40, 0]
    assert list(attention.get_extent()) == [20, 60, 40, 20]  # row 0 of the map is at the top, y 20
    assert attention.get_array()[0, 2] == 1 and attention.get_clim() == (0, 1)
    np.testing.assert_allclose(strip2.images[0].get_array()[0], channels[1])
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000

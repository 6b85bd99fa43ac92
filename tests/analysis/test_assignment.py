import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from sparsercnn.analysis.assignment import (
    StageAssignment,
    assign,
    draw_assignment,
    load_annotated_image,
)
from sparsercnn.data import DataError, make_shapes, register_datasets

BOXES = [[5, 5, 40, 40], [30, 10, 60, 60]]


@pytest.mark.parametrize("matcher", ["hungarian", "optimal_transport"])
def test_assignment_is_that_of_the_losses(tiny_cfg, make_input, matcher):
    """The same as the criterion is given in training, of all stages even where it sees the last."""
    tiny_cfg.MODEL.SparseRCNN.MATCHER.NAME = matcher
    tiny_cfg.MODEL.SparseRCNN.MATCHER.K = 2
    tiny_cfg.MODEL.SparseRCNN.MATCHER.STEP = 1.0
    model = build_model(tiny_cfg).eval()
    annotated_image = make_input((64, 96), BOXES, [1, 2])
    stages = assign(model, annotated_image)
    seen = []
    model.criterion.matcher.register_forward_hook(lambda _, args, out: seen.append((args, out)))
    model.training = True  # the layers stay in evaluation mode
    model([annotated_image])
    (((_, boxes, _), assignment),) = seen
    ours = torch.stack([stage.boxes for stage in stages])
    torch.testing.assert_close(ours, boxes[:, 0], atol=1e-2, rtol=0)
    indices = [stage.target_index.tolist() for stage in stages]
    assert indices == assignment.target_index[:, 0].tolist()
    positives = [stage.num_positives for stage in stages]
    assert positives == ([2, 2] if matcher == "hungarian" else [2, 4])

    model.training, model.deep_supervision = False, False
    assert [stage.num_positives for stage in assign(model, annotated_image)] == positives


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="META_ARCHITECTURE SparseRCNN"):
        assign(torch.nn.Identity(), {})


@pytest.mark.parametrize("num_stages,num_objects", [(1, 0), (4, 2), (6, 1)])
def test_picture_has_a_panel_for_each_stage(make_instances, num_stages, num_objects):
    image = np.full((40, 60, 3), 200, dtype=np.uint8)
    instances = make_instances((40, 60), BOXES[:num_objects], [0, 7][:num_objects])
    boxes = torch.tensor([[1.0, 2, 30, 20], [5, 5, 9, 9], [float("nan")] * 4])
    index = torch.tensor([-1, num_objects - 1, num_objects - 1])
    stages = [StageAssignment(boxes, index) for _ in range(num_stages)]
    figure = draw_assignment(image, stages, instances, ["cup"], "title")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(legend) == 2 and "object" in legend[0] and "proposal" in legend[1]
    assert len(figure.axes) == num_stages
    for axes in figure.axes:
        assert len(axes.patches) == (num_objects + 1 if num_objects else 0)
        captions = [text.get_text() for text in axes.texts]
        assert captions == ["cup ×0", "class 7 ×2"][:num_objects] or captions == ["cup ×2"]
    colors = [patch.get_edgecolor() for patch in figure.axes[0].patches]
    if num_objects == 2:
        assert colors[2] == colors[1] != colors[0]


def test_images_come_with_their_objects(tiny_cfg, tmp_path):
    make_shapes(str(tmp_path / "shapes"), {"train": 1, "val": 3}, size=32)
    name = f"coco:{tmp_path}/shapes/annotations/val.json@{tmp_path}/shapes/val"
    register_datasets([name])
    annotated_image = load_annotated_image(tiny_cfg, name, 2)
    assert annotated_image["image"].shape == (3, 128, 128)
    assert len(annotated_image["instances"].gt_boxes) > 0
    assert annotated_image["instances"].image_size == (128, 128)
    with pytest.raises(ValueError, match="no image 3 in .* it has 3"):
        load_annotated_image(tiny_cfg, name, 3)
    (tmp_path / "shapes/val").rename(tmp_path / "shapes/elsewhere")
    with pytest.raises(DataError):
        load_annotated_image(tiny_cfg, name, 0)


def test_names_with_dollars_are_no_formulas(make_instances, tmp_path):
    image = np.full((40, 60, 3), 200, dtype=np.uint8)
    instances = make_instances((40, 60), BOXES[:1], [0])
    stages = [StageAssignment(torch.tensor([[1.0, 2, 30, 20]]), torch.tensor([0]))]
    draw_assignment(image, stages, instances, ["$a^$"], "$a^$.jpg").savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000

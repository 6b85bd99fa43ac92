import numpy as np
import pytest
import torch
from PIL import Image

from sparsercnn.errors import ImageError
from sparsercnn.inference.class_names import ClassNames
from sparsercnn.inference.drawing import draw_predictions, readable_scale


def test_a_drawing_shows_the_box_and_is_always_the_same(detections):
    image = np.full((40, 60, 3), 90, np.uint8)
    names = ClassNames(["a", "b"])
    first = draw_predictions(image, detections, names, scale=4)
    assert first.shape == (160, 240, 3) and first.dtype == np.uint8
    assert np.array_equal(
        first, draw_predictions(image, detections, ClassNames(["a", "b"]), scale=4)
    )
    changed = (first != 90).any(axis=2)
    # The left side of the box is drawn, its middle is left alone.
    assert changed[60:100, 18:23].any(axis=1).all()
    assert not changed[60:75, 40:80].any()
    none = {"instances": detections["instances"][:0]}
    assert np.array_equal(draw_predictions(image, none, ClassNames()), image)
    assert readable_scale(image) == 4 and readable_scale(np.zeros((500, 900, 3))) == 1


def test_no_picture_is_drawn_that_a_jpeg_cannot_hold(tmp_path):
    """65,535 pixels are a JPEG's limit, but the library's is less."""
    assert readable_scale(np.zeros((1, 32_767, 3))) == 1  # not 65,534 pixels
    Image.new("L", (65_500, 1)).save(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="65501 x 1 pixels cannot be drawn: the limit is 65500"):
        draw_predictions(np.zeros((1, 65_501, 3), np.uint8), {}, ClassNames())


def test_masks_and_semantic_maps_are_drawn(detections):
    image = np.full((40, 60, 3), 90, np.uint8)
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 12:28, 8:20] = True
    detections["instances"].pred_masks = masks
    drawn = draw_predictions(image, detections, ClassNames(), scale=4)
    assert (drawn[60:75, 40:75] != 90).any(axis=2).all()
    semantic = torch.zeros(3, 40, 60)
    semantic[2, :, 30:] = 1
    drawn = draw_predictions(image, {"sem_seg": semantic}, ClassNames(stuff=["sky"]))
    assert (drawn != 90).any(axis=2).mean() > 0.9
    assert tuple(drawn[5, 5]) != tuple(drawn[5, 55])


def test_captions_of_one_object_do_not_overlap(detections, monkeypatch):
    from detectron2.structures import Boxes, Instances

    from sparsercnn.inference import drawing

    instances = Instances((200, 300))
    instances.pred_boxes = Boxes(torch.tensor([[50.0, 50, 150, 150], [51, 50, 150, 149]]))
    instances.scores, instances.pred_classes = torch.tensor([0.6, 0.9]), torch.tensor([0, 0])
    seen = []
    place = drawing.place_captions
    monkeypatch.setattr(
        drawing, "place_captions", lambda *args: seen.append((args[1], place(*args))) or seen[-1][1]
    )
    image = np.full((200, 300, 3), 90, np.uint8)
    draw_predictions(image, {"instances": instances}, ClassNames(["a"]))
    ((sizes, places),) = seen
    (first, second), ((w, h), _) = places, sizes
    assert 10 < w < 150 and 5 < h < 40  # in pixels
    assert abs(first - second)[1] >= h - 1e-6 or abs(first - second)[0] >= w - 1e-6


def test_names_with_dollars_are_no_formulas(detections):
    """As `$a^$`, of which matplotlib would complain, and another width than without the dollars."""
    from sparsercnn.inference import drawing

    image = np.full((120, 300, 3), 90, np.uint8)
    drawn = draw_predictions(image, detections, ClassNames(["$a^$", "$b$"]))
    assert (drawn != draw_predictions(image, detections, ClassNames(["a", "b"]))).any()
    semantic = torch.zeros(1, 120, 300)
    draw_predictions(image, {"sem_seg": semantic}, ClassNames(stuff=["$a^$"]))
    visualizer = drawing.LiteralVisualizer(image)
    visualizer.draw_text("$b$", (5, 5))
    renderer = visualizer.output.canvas.get_renderer()
    widths = []
    for text in ("$b$", "b"):
        visualizer.output.ax.texts[-1].set_text(text)
        widths.append(visualizer.output.ax.texts[-1].get_window_extent(renderer).width)
    assert widths[0] > 2 * widths[1]

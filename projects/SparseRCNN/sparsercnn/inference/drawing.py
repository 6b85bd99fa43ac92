"""Drawing of predictions over an image."""

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

from ..errors import ImageError
from .captions import number_duplicates, place_captions

__all__ = ["LiteralVisualizer", "draw_predictions", "readable_scale"]

# Pixels per side. A JPEG could have 65,535, as matplotlib could, but its library writes no more.
_LONGEST = 65_500


class LiteralVisualizer(Visualizer):
    """One that draws texts as they are; detectron2's takes what is between two $ for a formula."""

    def draw_text(self, *args, **kwargs):
        """As that of detectron2."""
        output = super().draw_text(*args, **kwargs)
        output.ax.texts[-1].set_parse_math(False)
        return output


def readable_scale(image):
    """Factor, 1 to 4, by which to enlarge a small picture (H, W, 3) so that captions do not hide
    objects: up to 400 pixels on the shorter side, and no more than can be drawn on the longer.
    """
    shorter, longer = sorted(image.shape[:2])
    return max(min(400 // shorter, _LONGEST // longer, 4), 1)


def draw_predictions(image, predictions, labels, scale=1):
    """Draw boxes, masks, names and scores, or a semantic segmentation.

    Each class has a fixed colour, which avoids flicker in videos. Further detections of one object
    are dotted and numbered. No caption covers another one as long as there is room.

    Args:
        image (ndarray): (H, W, 3), uint8, RGB.
        predictions (dict): on the CPU, in the size of the image.
        labels (ClassNames): names of the classes.
        scale (int): factor by which the picture, but not the captions, is enlarged.

    Returns:
        ndarray: (H * scale, W * scale, 3), uint8, RGB.

    Raises:
        ImageError: it would be too large for matplotlib or a JPEG file.
    """
    height, width = (scale * x for x in image.shape[:2])
    if max(height, width) > _LONGEST:
        raise ImageError(
            f"A picture of {width} x {height} pixels cannot be drawn: the limit is {_LONGEST} "
            "pixels per side. Cut the image into tiles."
        )
    colors = colormap(rgb=True, maximum=1)
    metadata = Metadata()
    visualizer = LiteralVisualizer(image, metadata, scale=scale)
    if "sem_seg" in predictions:
        scores = predictions["sem_seg"]
        unnamed = [f"class {i}" for i in range(len(labels.stuff), len(scores))]
        metadata.stuff_classes = [*labels.stuff, *unnamed]
        metadata.stuff_colors = [list(255 * colors[i % len(colors)]) for i in range(len(scores))]
        visualizer.draw_sem_seg(scores.argmax(dim=0), alpha=0.6)
    if "instances" in predictions:
        _draw_instances(visualizer, predictions["instances"], labels, colors)
    return np.ascontiguousarray(visualizer.get_output().get_image())


def _draw_instances(visualizer, instances, labels, colors):
    classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    boxes = instances.pred_boxes.tensor.numpy()
    own_colors = [colors[index % len(colors)] for index in classes]
    if instances.has("pred_masks"):
        masks = instances.pred_masks.numpy()
        visualizer.overlay_instances(masks=masks, assigned_colors=own_colors)
    numbers = number_duplicates(boxes, classes, scores)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for i in np.argsort(-area):
        style = "-" if numbers[i] == 1 else ":"
        visualizer.draw_box(boxes[i], edge_color=own_colors[i], line_style=style)
    captions = []
    for index, score, number in zip(classes, scores, numbers, strict=True):
        again = f", no. {number}" if number > 1 else ""
        captions.append(f"{labels.thing(index)} {score:.0%}{again}")
    _draw_captions(visualizer, boxes, captions, own_colors, np.argsort(scores)[::-1])


def _draw_captions(visualizer, boxes, captions, colors, order):
    """Draw the captions of `boxes`, those that come first in `order` where they belong."""
    output = visualizer.output
    renderer = output.canvas.get_renderer()
    to_pixels = output.ax.transData.inverted()
    texts, sizes = [], []
    for i in order:
        visualizer.draw_text(
            captions[i], boxes[i][:2], color=colors[i], horizontal_alignment="left"
        )
        texts.append(output.ax.texts[-1])
        # Of the text with its background, from display to pixels of the image.
        texts[-1].update_bbox_position_size(renderer)
        extent = texts[-1].get_bbox_patch().get_window_extent(renderer)
        sizes.append(np.abs(np.diff(to_pixels.transform(extent), axis=0)[0]))
    places = place_captions(boxes[order], sizes, (output.height, output.width))
    for text, place in zip(texts, places, strict=True):
        text.set_position(place)

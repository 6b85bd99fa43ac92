"""Drawing of predictions over an image."""

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

from ..errors import ImageError

__all__ = ["draw_predictions", "readable_scale"]

_LONGEST = 2**16 - 1  # pixels per side, of matplotlib and of JPEG


def readable_scale(image):
    """Factor, 1 to 4, by which to enlarge a small picture (H, W, 3) so that captions do not hide
    objects: up to 400 pixels on the shorter side, and no more than can be drawn on the longer.
    """
    shorter, longer = sorted(image.shape[:2])
    return max(min(400 // shorter, _LONGEST // longer, 4), 1)


def draw_predictions(image, predictions, labels, scale=1):
    """Draw boxes, masks, names and scores, or a semantic segmentation.

    Each class has a fixed colour, which avoids flicker in videos.

    Args:
        image (ndarray): (H, W, 3), uint8, RGB.
        predictions (dict): on the CPU, in the size of the image.
        labels (ClassNames): names of the classes.
        scale (int): factor by which the picture, but not the captions, is enlarged.

    Returns:
        ndarray: (H * scale, W * scale, 3), uint8, RGB.

    Raises:
        ImageError: it would be too large for matplotlib.
    """
    height, width = (scale * x for x in image.shape[:2])
    if max(height, width) > _LONGEST:
        raise ImageError(
            f"A picture of {width} x {height} pixels cannot be drawn: the limit is {_LONGEST} "
            "pixels per side. Cut the image into tiles."
        )
    colors = colormap(rgb=True, maximum=1)
    metadata = Metadata()
    visualizer = Visualizer(image, metadata, scale=scale)
    if "sem_seg" in predictions:
        scores = predictions["sem_seg"]
        unnamed = [f"class {i}" for i in range(len(labels.stuff), len(scores))]
        metadata.stuff_classes = [*labels.stuff, *unnamed]
        metadata.stuff_colors = [list(255 * colors[i % len(colors)]) for i in range(len(scores))]
        visualizer.draw_sem_seg(scores.argmax(dim=0), alpha=0.6)
    if "instances" in predictions:
        instances = predictions["instances"]
        classes = instances.pred_classes.tolist()
        captions = [
            f"{labels.thing(index)} {score:.0%}"
            for index, score in zip(classes, instances.scores.tolist(), strict=True)
        ]
        visualizer.overlay_instances(
            boxes=instances.pred_boxes,
            masks=instances.pred_masks.numpy() if instances.has("pred_masks") else None,
            labels=captions,
            assigned_colors=[colors[index % len(colors)] for index in classes],
        )
    return np.ascontiguousarray(visualizer.get_output().get_image())

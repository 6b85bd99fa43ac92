"""Drawing of predictions over an image."""

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

__all__ = ["draw_predictions", "readable_scale"]


def readable_scale(image, shortest=400, limit=4):
    """Factor by which to enlarge a small picture so that captions do not hide objects.

    Args:
        image (ndarray): (H, W, 3).
        shortest (int): desired length of the shorter side, in pixels.
        limit (int): largest factor.

    Returns:
        int: the factor, at least 1.
    """
    return min(max(shortest // min(image.shape[:2]), 1), limit)


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
    """
    colors = colormap(rgb=True, maximum=1)
    scores = predictions.get("sem_seg")
    stuff = [] if scores is None else _stuff_names(labels, len(scores))
    stuff_colors = [list(255 * colors[i % len(colors)]) for i in range(len(stuff))]
    metadata = Metadata().set(stuff_classes=stuff, stuff_colors=stuff_colors)
    visualizer = Visualizer(image, metadata, scale=scale)
    if scores is not None:
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


def _stuff_names(labels, count):
    return [labels.stuff[i] if i < len(labels.stuff) else f"class {i}" for i in range(count)]

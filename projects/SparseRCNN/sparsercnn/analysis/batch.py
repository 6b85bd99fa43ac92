"""Pictures of training batches, as the model gets them."""

import math

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils.colormap import colormap

from ..inference.drawing import LiteralVisualizer, readable_scale

__all__ = ["draw_sample", "draw_samples"]

_GAP = 8  # pixels between pictures


def draw_samples(samples, cfg, columns=4):
    """Draw samples with their ground truth, side by side.

    Args:
        samples (list[dict]): as a loader for training gives them.
        cfg (CfgNode): the whole config, whose first training set has the names of the classes.
        columns (int): pictures in a row.

    Returns:
        ndarray: (H, W, 3), uint8, RGB.
    """
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    pictures = [draw_sample(sample, cfg.INPUT.FORMAT, names) for sample in samples]
    height, width = (max(picture.shape[axis] for picture in pictures) + _GAP for axis in (0, 1))
    columns = min(columns, len(pictures))
    sheet = np.full(
        (height * math.ceil(len(pictures) / columns), width * columns, 3), 255, np.uint8
    )
    for number, picture in enumerate(pictures):
        y, x = height * (number // columns), width * (number % columns)
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet


def draw_sample(sample, image_format, names):
    """
    Args:
        sample (dict): with "image", and "instances" or "sem_seg".
        image_format (str): INPUT.FORMAT.
        names (Metadata): with `thing_classes` or `stuff_classes`, if the classes have names.

    Returns:
        ndarray: (H, W, 3), uint8, RGB, enlarged if the sample is small.
    """
    image = convert_image_to_rgb(sample["image"].permute(1, 2, 0), image_format)
    image = np.ascontiguousarray(image.clip(0, 255), dtype=np.uint8)
    colors = colormap(rgb=True, maximum=1)
    if "sem_seg" in sample:
        return _draw_labels(image, sample["sem_seg"], names, colors)
    visualizer = LiteralVisualizer(image, Metadata(), scale=readable_scale(image))
    instances = sample["instances"]
    known = names.get("thing_classes") or []
    classes = instances.gt_classes.tolist()
    masks = None
    if instances.has("gt_masks"):
        masks = getattr(instances.gt_masks, "tensor", instances.gt_masks)
        masks = getattr(masks, "polygons", masks)
    visualizer.overlay_instances(
        boxes=instances.gt_boxes.tensor.numpy(),
        masks=masks,
        labels=[known[i] if i < len(known) else f"class {i}" for i in classes],
        assigned_colors=[colors[i % len(colors)] for i in classes],
    )
    return visualizer.get_output().get_image()


def _draw_labels(image, labels, names, colors):
    metadata = Metadata()
    count = int(labels.max()) + 1
    known = list(names.get("stuff_classes") or [])
    metadata.stuff_classes = [*known, *(f"class {i}" for i in range(len(known), count))]
    metadata.stuff_colors = [list(255 * colors[i % len(colors)]) for i in range(count)]
    visualizer = LiteralVisualizer(image, metadata, scale=readable_scale(image))
    return visualizer.draw_sem_seg(labels, alpha=0.6).get_image()

"""Detections as pictures and as COCO results."""

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

__all__ = ["above_threshold", "coco_results", "draw_predictions", "readable_scale"]


def above_threshold(predictions, threshold):
    """Drop the detections of low score.

    Args:
        predictions (dict): of one image, from :meth:`Predictor.predict`.
        threshold (float): lowest score that stays.

    Returns:
        dict: a copy; what has no score is kept.
    """
    if "instances" not in predictions:
        return dict(predictions)
    instances = predictions["instances"]
    return {**predictions, "instances": instances[instances.scores >= threshold]}


def readable_scale(image, shortest=400, limit=4):
    """How many times a picture must be enlarged for captions not to hide what they name.

    Args:
        image (ndarray): (H, W, 3).
        shortest (int): pixels that the shorter side should have.
        limit (int): largest answer.

    Returns:
        int: at least 1.
    """
    return min(max(shortest // min(image.shape[:2]), 1), limit)


def draw_predictions(image, predictions, labels, scale=1):
    """Draw boxes, masks, names and scores; or a semantic map.

    The colour of a class is always the same, so that those of a video do not flicker.

    Args:
        image (ndarray): (H, W, 3), uint8, RGB.
        predictions (dict): on the CPU, in the image's size.
        labels (Labels): names of the classes.
        scale (int): enlarge the picture so many times, and not the captions.

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


def coco_results(predictions, labels, image_id, file_name):
    """The detections of an image in COCO's format of results.

    Args:
        predictions (dict): on the CPU.
        labels (Labels): gives the data set's category ids.
        image_id (int): the image's number.
        file_name (str): written beside it, since the number is not the data set's.

    Returns:
        list[dict]: "image_id", "file_name", "category_id", "bbox" (x, y, width, height in
        pixels), "score", and "segmentation" if there are masks.
    """
    if "instances" not in predictions:
        return []
    results = instances_to_coco_json(predictions["instances"], image_id)
    for result in results:
        result["category_id"] = labels.category_id(result["category_id"])
        result["file_name"] = str(file_name)
    return results


def _stuff_names(labels, count):
    return [labels.stuff[i] if i < len(labels.stuff) else f"class {i}" for i in range(count)]

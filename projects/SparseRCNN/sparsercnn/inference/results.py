"""What a model sees in an image, in files: COCO results, and label maps of segmentations."""

import os

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils.colormap import colormap
from PIL import Image

__all__ = ["LABELS_FOLDER", "above_threshold", "coco_results", "save_label_map"]

LABELS_FOLDER = "predicted_labels"  # "labels" is where people keep the true ones


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


def coco_results(predictions, labels, image_id, file_name):
    """The detections of an image in COCO's format of results.

    Args:
        predictions (dict): on the CPU.
        labels (ClassNames): gives the data set's category ids.
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


def save_label_map(predictions, picture):
    """Write what is predicted for an image, if that is a segmentation.

    The file is a PNG of the folder ``predicted_labels`` beside the drawn picture, of its name; it
    has one channel of class numbers, as evaluation and training read them, and a palette with the
    colours of the drawing, so that it can be looked at.

    Args:
        predictions (dict): on the CPU; with "sem_seg", (K, H, W), K at most 256, or without.
        picture (str): path of the drawn picture.

    Returns:
        str: path of the file; None if there is no segmentation.

    Raises:
        ValueError: more classes than a palette has colours.
    """
    if "sem_seg" not in predictions:
        return None
    scores = predictions["sem_seg"]
    if len(scores) > 256:
        raise ValueError(f"A label map with a palette has at most 256 classes, not {len(scores)}.")
    folder, name = os.path.split(picture)
    folder = os.path.join(folder, LABELS_FOLDER)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name if name.lower().endswith(".png") else f"{name}.png")
    labels = Image.fromarray(scores.argmax(dim=0).numpy().astype(np.uint8))
    colors = colormap(rgb=True, maximum=255)
    palette = [colors[i % len(colors)] for i in range(len(scores))]
    labels.putpalette(np.round(palette).astype(np.uint8).ravel().tolist())
    labels.save(path)
    return path

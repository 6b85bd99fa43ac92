"""Predictions in files: COCO results, and label maps of segmentations."""

import os

import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils.colormap import colormap
from PIL import Image

__all__ = ["above_threshold", "coco_results", "save_label_map"]


def above_threshold(predictions, threshold):
    """Drop detections below a score.

    Args:
        predictions (dict): predictions for one image, from :meth:`Predictor.predict`.
        threshold (float | Tensor): lowest score to keep, or that of each detection.

    Returns:
        dict: a copy; entries without scores are kept.
    """
    if "instances" not in predictions:
        return dict(predictions)
    instances = predictions["instances"]
    return {**predictions, "instances": instances[instances.scores >= threshold]}


def coco_results(predictions, labels, image_id, file_name):
    """What was found in an image, in COCO's results format.

    Args:
        predictions (dict): on the CPU.
        labels (ClassNames): maps classes to the data set's category ids and names.
        image_id (int): number of the image.
        file_name (str): also written, since `image_id` is not the data set's; None for none.

    Returns:
        list[dict]: "image_id", "file_name", "category_id", "category_name", "bbox" (x, y, width,
        height in pixels), "score", and "segmentation" (run lengths) if there are masks. Of a
        segmentation, one per class that occurs, without "bbox" and "score".
    """
    if "instances" in predictions:
        results = instances_to_coco_json(predictions["instances"], image_id)
        for result in results:
            result["category_name"] = labels.thing(result["category_id"])
            result["category_id"] = labels.category_id(result["category_id"])
    else:
        results = _regions(predictions["sem_seg"].argmax(dim=0).numpy(), labels, image_id)
    for result in results:
        result["file_name"] = None if file_name is None else str(file_name)
    return results


def _regions(label_map, labels, image_id):
    results = []
    for index in np.unique(label_map).tolist():
        mask = mask_util.encode(np.asfortranarray(label_map == index, dtype=np.uint8))
        result = {"image_id": image_id, "category_id": index}
        result["category_name"] = labels.stuff_name(index)
        result["segmentation"] = {**mask, "counts": mask["counts"].decode("ascii")}
        results.append(result)
    return results


def save_label_map(predictions, path):
    """Write the label map of a predicted segmentation, if there is one.

    The file is a PNG of one channel of class numbers, as read by evaluation and training, with the
    colours of the drawing as its palette.

    Args:
        predictions (dict): on the CPU; may have "sem_seg", (K, H, W), K at most 256.
        path (str): of the file, ending in .png; its folder is made if needed.

    Raises:
        ValueError: more than 256 classes.
    """
    if "sem_seg" not in predictions:
        return
    scores = predictions["sem_seg"]
    if len(scores) > 256:
        raise ValueError(f"A label map can have at most 256 classes, got {len(scores)}.")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    labels = Image.fromarray(scores.argmax(dim=0).numpy().astype(np.uint8))
    colors = colormap(rgb=True, maximum=255)
    palette = [colors[i % len(colors)] for i in range(len(scores))]
    labels.putpalette(np.round(palette).astype(np.uint8).ravel().tolist())
    labels.save(path)

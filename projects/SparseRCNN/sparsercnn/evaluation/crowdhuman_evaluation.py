"""Evaluator of CrowdHuman's metrics, AP50, MR^-2 and JI, for data sets of one class."""

import json
import logging
import os
from collections import OrderedDict

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from ..data.coco import read_coco
from ..errors import ConfigError
from .crowdhuman_metrics import crowdhuman_metrics, match_image

__all__ = ["CrowdHumanEvaluator"]


class CrowdHumanEvaluator(DatasetEvaluator):
    """AP50, MR and JI of :func:`crowdhuman_metrics`, over all detections of an image.

    Crowd annotations ("iscrowd") are the ignore regions. Each worker matches its own images as they
    come in; the main process combines the matches.
    """

    def __init__(self, dataset_name, distributed=True, output_dir=None):
        """
        Args:
            dataset_name (str): a registered data set of one class, whose metadata has `json_file`,
                annotations in COCO's format.
            distributed (bool): collect results from all workers.
            output_dir (str): folder for the detections, coco_instances_results.json; None: they
                are not written.

        Raises:
            FileNotFoundError: the annotation file does not exist.
            DataError: it is not in COCO's format.
            ConfigError: it has more than one class.
        """
        self._name = dataset_name
        self._distributed = distributed
        self._output_dir = output_dir
        metadata = MetadataCatalog.get(dataset_name)
        content = read_coco(PathManager.get_local_path(metadata.json_file))
        categories = content["categories"]
        if len(categories) != 1:
            raise ConfigError(
                f"CrowdHuman's metrics are for one class, but '{dataset_name}' has "
                f"{len(categories)}; set its evaluator_type to 'coco'."
            )
        self._category_id = categories[0]["id"]
        self._has_annotations = "annotations" in content  # missing in some test sets
        self._images = {image["id"]: _Annotated(image) for image in content["images"]}
        for x in content.get("annotations", ()):
            self._images[x["image_id"]].add(x["bbox"], x.get("iscrowd", 0))
        self.reset()

    def reset(self):
        self._matches = {}
        self._detections = {}

    def process(self, inputs, outputs):
        """
        Args:
            inputs (list[dict]): with "image_id".
            outputs (list[dict]): with "instances", which have `pred_boxes`, `scores` and
                `pred_classes`, in pixels of the annotated image.

        Raises:
            FloatingPointError: a score or a box is not finite.
            ConfigError: the data set does not have the image or the class.
        """
        for x, output in zip(inputs, outputs, strict=True):
            image_id = x["image_id"]
            if image_id not in self._images:
                raise ConfigError(
                    f"'{self._name}' has no image with the id {image_id!r}; the loader and the "
                    "annotation file must be of the same data set."
                )
            boxes, scores = self._checked(output["instances"], image_id)
            if self._has_annotations:
                self._matches[image_id] = self._images[image_id].match(boxes, scores)
            if self._output_dir:
                self._detections[image_id] = boxes, scores

    def evaluate(self):
        """
        Returns:
            OrderedDict: ``{"bbox": metrics}`` on the main process; empty on others, and if there
            are no annotations.
        """
        matches, detections = self._matches, self._detections
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather((matches, detections), dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            matches, detections = (_merged(parts) for parts in zip(*gathered, strict=True))
        if self._output_dir:
            self._write(detections)
        if not self._has_annotations:
            logging.getLogger(__name__).info(f"{self._name} has no annotations to compare with.")
            return OrderedDict()
        metrics = crowdhuman_metrics(self._of_all_images(matches))
        logging.getLogger(__name__).info(
            f"CrowdHuman's metrics on {self._name} (for MR, lower is better):\n"
            f"{create_small_table(metrics)}"
        )
        return OrderedDict(bbox=metrics)

    def _checked(self, instances, image_id):
        """Boxes and scores, (D, 4) and (D,)."""
        classes = instances.pred_classes
        if (classes != 0).any():
            raise ConfigError(
                f"The model predicted class {classes.max()}, but the data set '{self._name}' has "
                "1 class; set the model's number of classes (MODEL.SparseRCNN.NUM_CLASSES) to 1."
            )
        # A single copy from the device, in float32.
        both = torch.cat([instances.pred_boxes.tensor, instances.scores[:, None]], dim=1)
        both = both.float().cpu().numpy()
        if not np.isfinite(both).all():
            raise FloatingPointError(
                f"{self._name}, image id {image_id!r}: "
                f"{(~np.isfinite(both)).any(axis=1).sum()} of {len(both)} detections have a score "
                "or a box that is not finite. The model has diverged; use an earlier checkpoint."
            )
        return both[:, :4], both[:, 4]

    def _of_all_images(self, matches):
        """Matches in the order of the data set, which does not depend on the number of workers."""
        missing = self._images.keys() - matches.keys()
        if missing:
            logging.getLogger(__name__).warning(
                f"{self._name}: no predictions for {len(missing)} of {len(self._images)} images; "
                "they count as images without detections."
            )
        nothing = np.zeros((0, 4)), np.zeros(0)
        return [matches.get(key) or image.match(*nothing) for key, image in self._images.items()]

    def _write(self, detections):
        """Write one image at a time; Python objects of all detections would take gigabytes."""
        PathManager.mkdirs(self._output_dir)
        path = os.path.join(self._output_dir, "coco_instances_results.json")
        with PathManager.open(path, "w") as file:
            separator = ""
            file.write("[")
            for image_id, (boxes, scores) in detections.items():
                if len(scores) == 0:
                    continue
                boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
                ids = {"image_id": image_id, "category_id": self._category_id}
                results = [
                    {**ids, "bbox": box, "score": score}
                    for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
                ]
                file.write(separator + json.dumps(results)[1:-1])
                separator = ",\n"
            file.write("]")


class _Annotated:
    """The annotations of an image: persons and ignore regions."""

    def __init__(self, image):
        self.size = image["height"], image["width"]
        self.persons, self.ignored = [], []

    def add(self, box, is_ignored):
        x, y, width, height = box
        (self.ignored if is_ignored else self.persons).append([x, y, x + width, y + height])

    def match(self, boxes, scores):
        return match_image(boxes, scores, self.persons, self.ignored, self.size)


def _merged(parts):
    return {key: value for part in parts for key, value in part.items()}

"""LVIS's average precision (Gupta et al., CVPR 2019), of annotations that are not exhaustive."""

import copy
import heapq
from collections import defaultdict

import numpy as np
from detectron2.utils.logger import create_small_table

from ..data.lvis import FREQUENCIES
from ..extras import require_extra
from .coco_evaluation import COCOEvaluator

__all__ = ["LVISEvaluator", "lvis_metrics"]

_MAX_DETECTIONS = 300  # per image, of all classes together


class LVISEvaluator(COCOEvaluator):
    """COCO's evaluator with LVIS's rules.

    The 300 best detections of an image count. Those of a class that is neither annotated in an
    image nor known to be absent from it are neither right nor wrong there, and so are unmatched
    ones of a class of which not all objects are annotated. APr, APc and APf are of rare, common
    and frequent classes.

    faster-coco-eval computes it. The package ``lvis`` of the data set's authors, which detectron2's
    evaluator uses, fails with NumPy 1.24 and later.
    """

    def __init__(self, dataset_name, tasks=None, distributed=True, output_dir=None):
        """
        Args:
            dataset_name, tasks, distributed, output_dir: see :class:`COCOEvaluator`; the data
                set's `json_file` is in LVIS's format.

        Raises:
            MissingExtraError: faster-coco-eval is not installed.
        """
        require_extra("fast-eval", "faster_coco_eval")
        super().__init__(dataset_name, tasks, distributed, output_dir)

    def _restore_category_ids(self, results):
        if self._metadata.get("thing_dataset_id_to_contiguous_id") is not None:
            super()._restore_category_ids(results)
            return
        for result in results:  # of data sets that detectron2 registers: their ids count from 1
            result["category_id"] += 1

    def _evaluate_task(self, results, task, img_ids):
        metrics = lvis_metrics(self._coco_api.dataset, results, task, img_ids)
        table = create_small_table({k: v for k, v in metrics.items() if "-" not in k})
        self._logger.info(f"LVIS's metrics of {task}:\n{table}")
        return metrics


def lvis_metrics(ground_truth, results, iou_type, img_ids=None):
    """
    Args:
        ground_truth (dict): in LVIS's format.
        results (list[dict]): detections in COCO's results format.
        iou_type (str): "bbox" or "segm".
        img_ids (list[int]): images to evaluate on; None: all.

    Returns:
        dict[str, float]: in percent, "AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"
        and "AP-NAME" of each class; NaN where there is no object.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    if not results:
        precision = np.zeros((10, 1, len(categories), 4))
        names = {x["category_id"] for x in ground_truth["annotations"]}
        precision[:, :, [x["id"] not in names for x in categories]] = -1
        return _summary(precision, categories)
    results = _best_of_each_image(results)
    if iou_type == "segm":
        # If a result has a box, the area of the box is used instead of the mask's.
        results = [{k: v for k, v in x.items() if k != "bbox"} for x in results]
    truth = COCO(copy.deepcopy(ground_truth))
    evaluation = COCOeval_faster(
        truth, truth.loadRes(copy.deepcopy(results)), iou_type, lvis_style=True
    )
    if img_ids is not None:
        evaluation.params.imgIds = img_ids
    # It counts per class, which the limit per image above has made no stricter.
    evaluation.params.maxDets = [_MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return _summary(evaluation.eval["precision"][..., 0], categories)


def _best_of_each_image(results):
    of_image = defaultdict(list)
    for result in results:
        of_image[result["image_id"]].append(result)
    best = (heapq.nlargest(_MAX_DETECTIONS, x, key=lambda r: r["score"]) for x in of_image.values())
    return [result for of_one in best for result in of_one]


def _summary(precision, categories):
    """Metrics of a precision (thresholds, recalls, classes, area ranges), -1 without objects."""
    frequency = np.array([category["frequency"] for category in categories])
    metrics = {"AP": _mean(precision[..., 0])}
    metrics["AP50"], metrics["AP75"] = (_mean(precision[i, ..., 0]) for i in (0, 5))
    for number, size in enumerate("sml", start=1):
        metrics[f"AP{size}"] = _mean(precision[..., number])
    for name in FREQUENCIES:
        metrics[f"AP{name}"] = _mean(precision[:, :, frequency == name, 0])
    for number, category in enumerate(categories):
        metrics[f"AP-{category['name']}"] = _mean(precision[:, :, number, 0])
    return metrics


def _mean(precision):
    defined = precision[precision > -1]
    return 100 * float(defined.mean()) if len(defined) else float("nan")

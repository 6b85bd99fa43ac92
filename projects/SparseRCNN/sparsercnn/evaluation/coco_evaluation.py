"""COCO's average precision, with the fastest implementation that gives the same numbers."""

import contextlib
import copy
import io
import itertools
import json
import os

from detectron2.evaluation import COCOEvaluator as Detectron2COCOEvaluator
from detectron2.utils.file_io import PathManager
from pycocotools.cocoeval import COCOeval

try:
    from faster_coco_eval import COCOeval_faster
except ImportError:  # optional
    COCOeval_faster = None

from ..data.coco import ensure_json_file
from ..data.coco_schema import default_area
from ..data.segmentations import clean, mask_problem
from ..errors import ConfigError, DataError

__all__ = ["COCOEvaluator", "evaluate_on_coco"]

_BACKENDS = ("auto", "faster_coco_eval", "pycocotools")


class COCOEvaluator(Detectron2COCOEvaluator):
    """Detectron2's evaluator, without compiled extension, and always with the AP of each class.

    As in all published COCO results, the 100 best detections per class and image count, whatever
    TEST.DETECTIONS_PER_IMAGE is.
    """

    def __init__(
        self, dataset_name, tasks=None, distributed=True, output_dir=None, *, backend="auto"
    ):
        """
        Args:
            dataset_name (str): a registered data set.
            tasks (tuple[str]): "bbox", "segm" or both; None: determined from the predictions.
            distributed (bool): collect predictions from all workers.
            output_dir (str): folder for the predictions.
            backend (str): "faster_coco_eval", "pycocotools", or "auto": the first one if installed.

        Raises:
            ConfigError: the backend is unknown or not installed.
            DataError: the annotation file is not json.
        """
        ensure_json_file(dataset_name)
        try:
            super().__init__(dataset_name, tasks, distributed, output_dir, use_fast_impl=False)
        except json.JSONDecodeError as error:  # of a file that no loader has checked
            path = self._metadata.json_file
            raise DataError(f"{path}: malformed json: {error}. Correct the file.") from error
        self._eval_class = _eval_class(backend)
        self._complete_ground_truth()

    def _complete_ground_truth(self):
        """Fill in what many files lack, and make ids such as COCO's API counts with."""
        annotations = self._coco_api.dataset.get("annotations", ())
        for x in annotations:
            x.setdefault("iscrowd", 0)
            x.setdefault("area", default_area(x["bbox"]))
        if any(isinstance(x["id"], str) or x["id"] <= 0 for x in annotations):
            # A detection is right if the id of its object is above 0.
            for number, x in enumerate(annotations, start=1):
                x["id"], x["id_in_file"] = number, x["id"]
            with contextlib.redirect_stdout(io.StringIO()):
                self._coco_api.createIndex()
        if any(isinstance(x, str) for x in self._coco_api.imgs):
            self._eval_class = COCOeval  # faster-coco-eval wants numbers

    def _eval_predictions(self, predictions, img_ids=None):
        results = list(itertools.chain.from_iterable(x["instances"] for x in predictions))
        tasks = sorted(self._tasks or self._tasks_from_predictions(results))
        self._restore_category_ids(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info(f"Saving results to {path}")
            with PathManager.open(path, "w") as file:
                json.dump(results, file)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        self._logger.info(f"Evaluating {', '.join(tasks)} with {self._eval_class.__module__} ...")
        if "segm" in tasks:
            self._prepare_masks()
        for task in tasks:
            self._results[task] = self._evaluate_task(results, task, img_ids)

    def _evaluate_task(self, results, task, img_ids):
        """Metrics (dict[str, float]) of "bbox" or "segm"."""
        coco_eval = None
        if results:
            coco_eval = evaluate_on_coco(self._coco_api, results, task, img_ids, self._eval_class)
        return self._derive_coco_results(
            coco_eval, task, class_names=self._metadata.get("thing_classes")
        )

    def _prepare_masks(self):
        """Make the ground truth's masks those of training, and safe to draw.

        pycocotools takes a polygon of two points for a box, and draws anything.
        """
        images = self._coco_api.imgs
        for x in self._coco_api.anns.values():
            x["segmentation"] = clean(x.get("segmentation"))
            size = images[x["image_id"]]["width"], images[x["image_id"]]["height"]
            problem = "it has no segmentation"
            if x["segmentation"] is not None:
                problem = mask_problem(x["segmentation"], *size)
            if problem:
                raise DataError(
                    f"{self._metadata.json_file}: annotation id {x.get('id_in_file', x['id'])}: "
                    f"{problem}. Correct it, or remove the annotation."
                )

    def _restore_category_ids(self, results):
        """Replace contiguous class indices by the data set's own ids, in place."""
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if ids is None:
            return
        dataset_ids = {index: dataset_id for dataset_id, index in ids.items()}
        for result in results:
            if result["category_id"] not in dataset_ids:
                raise ConfigError(
                    f"The model predicted class {result['category_id']}, but the data set "
                    f"'{self._metadata.name}' has {len(dataset_ids)} classes; set the model's "
                    "number of classes (MODEL.SparseRCNN.NUM_CLASSES) to that number."
                )
            result["category_id"] = dataset_ids[result["category_id"]]

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        # Detectron2 leaves these out for a single class, and without predictions.
        for name in class_names or ():
            results.setdefault(f"AP-{name}", results["AP"])
        return results


def evaluate_on_coco(ground_truth, results, iou_type, img_ids=None, eval_class=None):
    """Compare detections with annotations, and print COCO's table.

    Args:
        ground_truth (pycocotools.coco.COCO): the annotations.
        results (list[dict]): detections in COCO's results format, at least one.
        iou_type (str): "bbox" or "segm".
        img_ids (list[int]): images to evaluate on; None: all.
        eval_class (type): ``pycocotools.cocoeval.COCOeval``, or a class with its interface;
            None: the fastest.

    Returns:
        COCOeval: an `eval_class` with `stats` (12 numbers) and ``eval["precision"]``.
    """
    if iou_type == "segm":
        # If a result has a box, COCO's API uses the area of the box instead of the mask's.
        results = [{k: v for k, v in x.items() if k != "bbox"} for x in results]
    # The API modifies its input, which must stay unchanged for a second task.
    detections = ground_truth.loadRes(copy.deepcopy(results))
    eval_class = eval_class or _eval_class("auto")
    options = {"print_function": print} if eval_class is COCOeval_faster else {}
    coco_eval = eval_class(ground_truth, detections, iou_type, **options)
    if img_ids is not None:
        coco_eval.params.imgIds = img_ids
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval


def _eval_class(backend):
    if backend not in _BACKENDS:
        raise ConfigError(f"TEST.COCO_EVAL is '{backend}'; it must be {' or '.join(_BACKENDS)}.")
    if backend == "pycocotools" or (backend == "auto" and COCOeval_faster is None):
        return COCOeval
    if COCOeval_faster is None:
        raise ConfigError(
            "TEST.COCO_EVAL is 'faster_coco_eval', which is not installed. Run "
            "pip install faster-coco-eval, or set TEST.COCO_EVAL auto."
        )
    return COCOeval_faster

"""Pixel accuracy, mean accuracy, mean and frequency-weighted IoU, and those of each class."""

import logging
import os

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator as Detectron2SemSegEvaluator
from tabulate import tabulate

from ..data.label_map import label_map_problem, read_label_map
from ..errors import DataError

__all__ = ["SemSegEvaluator", "sem_seg_metrics"]


class SemSegEvaluator(Detectron2SemSegEvaluator):
    """Detectron2's evaluator, which counts label values that are no class as other classes, and
    says of a class that is predicted but not there that its IoU is unknown, and averages it as 0.

    Here the first is an error that names the file, and the second is 0 in both places. Results
    are a table in the log, and ``{"sem_seg": metrics}`` as of :func:`sem_seg_metrics`.
    """

    def __init__(self, dataset_name, distributed=True, output_dir=None):
        """
        Args:
            dataset_name (str): a registered data set, whose metadata has `stuff_classes` and
                `ignore_label`.
            distributed (bool): collect results from all workers.
            output_dir (str): results are written there; None: nowhere.
        """
        super().__init__(dataset_name, distributed, output_dir)
        self._stuff_classes = list(MetadataCatalog.get(dataset_name).stuff_classes)

    def process(self, inputs, outputs):
        """
        Args:
            inputs (list[dict]): with "file_name".
            outputs (list[dict]): with "sem_seg", (K, H, W), in the size of the label map.

        Raises:
            DataError: a label map that cannot be compared; the message names it.
        """
        for x, output in zip(inputs, outputs, strict=True):
            path = self.input_file_to_gt_file[x["file_name"]]
            problem = label_map_problem(
                read_label_map(path),
                self._num_classes,
                self._ignore_label,
                output["sem_seg"].shape[-2:],
            )
            if problem:
                raise DataError(f"The label map {path} {problem}.")
        super().process(inputs, outputs)

    def evaluate(self):
        """
        Returns:
            OrderedDict: ``{"sem_seg": metrics}`` on the main process, None on others.
        """
        results = super().evaluate()
        if results is None:
            return None
        # Without the last row and column, which are of ignored pixels; rows are predictions.
        confusion = self._conf_matrix[:-1, :-1].T
        results["sem_seg"].update(sem_seg_metrics(confusion, self._stuff_classes))
        if self._output_dir:  # in place of detectron2's numbers
            torch.save(results["sem_seg"], os.path.join(self._output_dir, "sem_seg_evaluation.pth"))
        _log_table(results["sem_seg"], self._stuff_classes, confusion)
        return results


def sem_seg_metrics(confusion, class_names):
    """The metrics of Long et al. (CVPR 2015, section 5), in percent.

    Args:
        confusion: (K, K), pixels of each class (row) that were predicted as each class (column).
        class_names (list[str]): K names.

    Returns:
        dict[str, float]: "pACC", the share of pixels that are right; "mACC", the mean over the
        classes that occur of the share of their pixels that is right; "mIoU", the mean over the
        classes that occur or are predicted of intersection over union; "fwIoU", weighted by the
        pixels of each class; "IoU-NAME" and "ACC-NAME". What is not defined is NaN: the accuracy
        of a class that does not occur, the IoU of one that is not predicted either.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    right = confusion.diagonal()
    pixels, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    accuracy = _divide(right, pixels)
    iou = _divide(right, pixels + predicted - right)
    metrics = {
        "mIoU": _mean(iou),
        "fwIoU": float(_divide(np.nansum(pixels * iou), pixels.sum())),
        "mACC": _mean(accuracy),
        "pACC": float(_divide(right.sum(), pixels.sum())),
    }
    for prefix, values in (("IoU", iou), ("ACC", accuracy)):
        for name, value in zip(class_names, values, strict=True):
            metrics[f"{prefix}-{name}"] = float(value)
    return {key: 100 * value for key, value in metrics.items()}


def _divide(numerator, denominator):
    """NaN where the denominator is 0."""
    denominator = np.asarray(denominator)
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)


def _mean(values):
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _log_table(metrics, class_names, confusion):
    share = _divide(confusion.sum(axis=1), confusion.sum())
    rows = [
        (name, metrics[f"IoU-{name}"], metrics[f"ACC-{name}"], 100 * part)
        for name, part in zip(class_names, share, strict=True)
    ]
    rows.append(("mean", metrics["mIoU"], metrics["mACC"], None))
    headers = ("class", "IoU", "accuracy", "% of pixels")
    table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f", missingval="")
    logging.getLogger(__name__).info(
        f"Semantic segmentation: mIoU {metrics['mIoU']:.2f}, frequency-weighted IoU "
        f"{metrics['fwIoU']:.2f}, pixel accuracy {metrics['pACC']:.2f}\n{table}"
    )

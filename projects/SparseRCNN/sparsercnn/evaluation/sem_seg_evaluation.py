"""Pixel accuracy, mean accuracy, mean and frequency-weighted IoU; accuracy and IoU per class."""

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
    """Detectron2's evaluator with two corrections.

    * A label value that is not a class is an error that names the file; detectron2 counts it as
      some other class.
    * The IoU of a class that is predicted but does not occur is 0; detectron2 reports NaN for it,
      but averages it as 0.

    The metrics are those of :func:`sem_seg_metrics`, also logged as a table.
    """

    def __init__(self, dataset_name, distributed=True, output_dir=None):
        """
        Args:
            dataset_name (str): a registered data set, whose metadata has `stuff_classes` and
                `ignore_label`.
            distributed (bool): collect results from all workers.
            output_dir (str): folder for the results; None: they are not written.
        """
        super().__init__(dataset_name, distributed, output_dir)
        self._stuff_classes = list(MetadataCatalog.get(dataset_name).stuff_classes)

    def process(self, inputs, outputs):
        """
        Args:
            inputs (list[dict]): with "file_name".
            outputs (list[dict]): with "sem_seg", (K, H, W), in the size of the label map.

        Raises:
            DataError: a label map cannot be read or does not fit; the message names it.
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
        # The last row and column hold ignored pixels; detectron2's rows are predictions.
        confusion = self._conf_matrix[:-1, :-1].T
        results["sem_seg"].update(sem_seg_metrics(confusion, self._stuff_classes))
        if self._output_dir:  # overwrites detectron2's numbers
            torch.save(results["sem_seg"], os.path.join(self._output_dir, "sem_seg_evaluation.pth"))
        _log_table(results["sem_seg"], self._stuff_classes, confusion)
        return results


def sem_seg_metrics(confusion, class_names):
    """The metrics of Long et al. (CVPR 2015, section 5), in percent.

    Args:
        confusion: (K, K), number of pixels by class (row) and predicted class (column).
        class_names (list[str]): K names.

    Returns:
        dict[str, float]:

        * "pACC": fraction of correct pixels;
        * "mACC": accuracy averaged over classes that occur;
        * "mIoU": IoU averaged over classes that occur or are predicted;
        * "fwIoU": IoU weighted by the pixels of each class;
        * "ACC-NAME", "IoU-NAME": accuracy and IoU of a class. The accuracy is NaN if the class does
          not occur, the IoU if it is not predicted either.
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
    """Elementwise quotient, NaN where the denominator is 0."""
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

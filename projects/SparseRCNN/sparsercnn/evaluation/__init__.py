"""Evaluators and metrics of detections and segmentations."""

from .build import EVALUATOR_REGISTRY, build_evaluator
from .coco_evaluation import COCOEvaluator, evaluate_on_coco
from .crowdhuman_evaluation import CrowdHumanEvaluator
from .crowdhuman_metrics import LOWER_IS_BETTER, crowdhuman_metrics, match_image
from .lvis_evaluation import LVISEvaluator, lvis_metrics
from .sem_seg_evaluation import SemSegEvaluator, sem_seg_metrics

__all__ = [
    "COCOEvaluator",
    "CrowdHumanEvaluator",
    "EVALUATOR_REGISTRY",
    "LOWER_IS_BETTER",
    "LVISEvaluator",
    "SemSegEvaluator",
    "build_evaluator",
    "crowdhuman_metrics",
    "evaluate_on_coco",
    "lvis_metrics",
    "match_image",
    "sem_seg_metrics",
]

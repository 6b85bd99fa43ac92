"""How good detections and segmentations are."""

from .build import EVALUATOR_REGISTRY, build_evaluator
from .coco_evaluation import COCOEvaluator, evaluate_on_coco
from .sem_seg_evaluation import SemSegEvaluator, sem_seg_metrics

__all__ = [
    "COCOEvaluator",
    "EVALUATOR_REGISTRY",
    "SemSegEvaluator",
    "build_evaluator",
    "evaluate_on_coco",
    "sem_seg_metrics",
]

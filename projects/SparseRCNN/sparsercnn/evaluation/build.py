"""Choice of the evaluator by the `evaluator_type` in a data set's metadata."""

from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
)

from ..errors import ConfigError
from ..registry import NamedRegistry
from .coco_evaluation import COCOEvaluator
from .crowdhuman_evaluation import CrowdHumanEvaluator
from .sem_seg_evaluation import SemSegEvaluator

__all__ = ["EVALUATOR_REGISTRY", "build_evaluator"]

EVALUATOR_REGISTRY = NamedRegistry("EVALUATOR")
"""`evaluator_type` of a data set -> function (cfg, dataset_name, output_folder) that returns a
:class:`detectron2.evaluation.DatasetEvaluator`."""


def build_evaluator(cfg, dataset_name, output_folder):
    """Build the evaluator of a data set.

    Args:
        cfg (CfgNode): the whole config.
        dataset_name (str): a registered data set, whose metadata has an `evaluator_type`.
        output_folder (str): folder for the results.

    Raises:
        ConfigError: the metadata has no `evaluator_type`, or one that is not in the registry.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in EVALUATOR_REGISTRY:
        known = ", ".join(sorted(name for name, _ in EVALUATOR_REGISTRY))
        raise ConfigError(
            f"The data set '{dataset_name}' has evaluator_type '{evaluator_type}'; it must be one "
            f"of {known}. Set it by MetadataCatalog.get('{dataset_name}').set(evaluator_type=...), "
            "or register an evaluator for it in EVALUATOR_REGISTRY."
        )
    return EVALUATOR_REGISTRY.get(evaluator_type)(cfg, dataset_name, output_folder)


@EVALUATOR_REGISTRY.register("coco")
def _coco(cfg, dataset_name, output_folder):
    return COCOEvaluator(dataset_name, output_dir=output_folder, backend=cfg.TEST.COCO_EVAL)


@EVALUATOR_REGISTRY.register("crowdhuman")
def _crowdhuman(cfg, dataset_name, output_folder):
    return CrowdHumanEvaluator(dataset_name, output_dir=output_folder)


@EVALUATOR_REGISTRY.register("lvis")
def _lvis(cfg, dataset_name, output_folder):
    return LVISEvaluator(dataset_name, output_dir=output_folder)


@EVALUATOR_REGISTRY.register("pascal_voc")
def _pascal_voc(cfg, dataset_name, output_folder):
    return PascalVOCDetectionEvaluator(dataset_name)


@EVALUATOR_REGISTRY.register("cityscapes_instance")
def _cityscapes_instance(cfg, dataset_name, output_folder):
    return CityscapesInstanceEvaluator(dataset_name)


# Cityscapes' own script computes the same IoU, but none of the other metrics.
@EVALUATOR_REGISTRY.register("cityscapes_sem_seg")
@EVALUATOR_REGISTRY.register("sem_seg")
def _sem_seg(cfg, dataset_name, output_folder):
    return SemSegEvaluator(dataset_name, output_dir=output_folder)

"""Choice of the evaluator by the `evaluator_type` in a data set's metadata."""

from detectron2.data import MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator, PascalVOCDetectionEvaluator

from ..errors import ConfigError
from ..registry import NamedRegistry
from .coco_evaluation import COCOEvaluator
from .crowdhuman_evaluation import CrowdHumanEvaluator
from .lvis_evaluation import LVISEvaluator
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


_BUILDERS = {
    "coco": lambda cfg, name, folder: COCOEvaluator(
        name, output_dir=folder, backend=cfg.TEST.COCO_EVAL
    ),
    "crowdhuman": lambda cfg, name, folder: CrowdHumanEvaluator(name, output_dir=folder),
    "lvis": lambda cfg, name, folder: LVISEvaluator(name, output_dir=folder),
    "pascal_voc": lambda cfg, name, folder: PascalVOCDetectionEvaluator(name),
    "cityscapes_instance": lambda cfg, name, folder: CityscapesInstanceEvaluator(name),
    # Cityscapes' own script computes the same IoU, but none of the other metrics.
    "cityscapes_sem_seg": lambda cfg, name, folder: SemSegEvaluator(name, output_dir=folder),
    "sem_seg": lambda cfg, name, folder: SemSegEvaluator(name, output_dir=folder),
}
for _name, _builder in _BUILDERS.items():
    EVALUATOR_REGISTRY.register(_name)(_builder)

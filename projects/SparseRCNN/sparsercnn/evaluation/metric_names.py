"""Names of metrics, as evaluators give them and `metrics.json` has them: "bbox/AP"."""

import re

__all__ = ["metric_order", "split_metric"]

# The name of a class may have slashes and hyphens, and so may that of a data set, which comes first
# where there is more than one.
_METRIC = re.compile(
    r"((?:.*/)?(?:bbox|segm|keypoints|sem_seg|panoptic_seg|box_proposals)/[^-/]+)(?:-(.+))?"
)
_COCO_ORDER = {name: i for i, name in enumerate(("AP", "AP50", "AP75", "APs", "APm", "APl"))}


def split_metric(name):
    """Separate the name of a class from that of the metric.

    Args:
        name (str): "voc:/data/a-b@test/bbox/AP-t-shirt".

    Returns:
        tuple[str, str]: "voc:/data/a-b@test/bbox/AP" and "t-shirt", the latter None for a metric of
        all classes; both None for a name not from an evaluator, such as "rpn/num_pos_anchors".
    """
    match = _METRIC.fullmatch(name)
    return match.groups() if match else (None, None)


def metric_order(name):
    """Key to sort metrics by: their tasks, and then COCO's own before others."""
    task, _, metric = name.rpartition("/")
    return task, _COCO_ORDER.get(metric, len(_COCO_ORDER)), metric

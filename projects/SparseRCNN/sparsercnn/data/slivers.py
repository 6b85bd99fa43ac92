"""What is left of objects after augmentation: those that vanish and slivers are dropped, counted.

Instances carry a field `visible`, (M,), the share of an object that is still in the picture.
"""

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.structures import BitMasks, Boxes, BoxMode, PolygonMasks
from detectron2.utils.events import get_event_storage

__all__ = ["LOST", "Slivers", "record_lost", "tracked_instances"]

LOST = "num_lost"  # key of a sample: numbers of objects (vanished, slivers)


def tracked_instances(annotations, transforms, size, masks=None):
    """Annotations as instances that keep track of what is visible.

    Args:
        annotations (list[dict]): in detectron2's format, without crowds; they are changed.
        transforms (TransformList): of detectron2, with which the image was transformed.
        size (tuple[int]): height and width of the transformed image.
        masks (str): "polygon" or "bitmask", INPUT.MASK_FORMAT; None: no masks.

    Returns:
        Instances: M of them, none is left out: `gt_boxes`, with masks those of what is left of
        these; `gt_classes`; `visible`; and, with `masks`, `gt_masks`.
    """
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations]
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    whole = torch.as_tensor(transforms.apply_box(boxes)).reshape(-1, 4)
    if masks is None:
        annotations = [{k: v for k, v in x.items() if k != "segmentation"} for x in annotations]
    annotations = [utils.transform_instance_annotations(x, transforms, size) for x in annotations]
    for x in annotations:
        if isinstance(x.get("segmentation"), np.ndarray):  # of RLE; PyTorch warns of read-only ones
            x["segmentation"] = np.require(x["segmentation"], requirements="W")
    instances = utils.annotations_to_instances(annotations, size, masks or "polygon")
    instances.visible = _share(instances.gt_boxes.tensor, whole)
    if masks is None:
        return instances
    if not annotations:
        none = PolygonMasks([]) if masks == "polygon" else BitMasks(torch.zeros(0, *size))
        instances.gt_masks = none
    drawn = instances.gt_masks.nonempty()
    instances.visible[~drawn] = 0
    was_cut = instances.visible < 1 - 1e-3
    tight = instances.gt_masks.get_bounding_boxes().tensor
    tight = torch.where(drawn[:, None], tight, 0.0)
    box = instances.gt_boxes.tensor
    instances.gt_boxes = Boxes(torch.where(was_cut[:, None], tight, box))
    return instances


def _share(boxes, whole):
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    return (area / (whole[:, 2:] - whole[:, :2]).prod(1).clamp(min=1e-9)).float().clamp(max=1)


class Slivers:
    """Drops from augmented instances what a detector should not learn to find."""

    def __init__(self, min_side=2.0, min_visible=0.1):
        """
        Args:
            min_side (float): of a box, in pixels of the augmented image.
            min_visible (float): share of an object.
        """
        self.min_side = min_side
        self.min_visible = min_visible

    def drop(self, instances):
        """
        Args:
            instances (Instances): with `visible`, which they lose.

        Returns:
            tuple: the instances that remain, and two numbers: of those of which nothing was left,
            and of slivers.
        """
        boxes, visible = instances.gt_boxes.tensor, instances.visible
        sides = (boxes[:, 2:] - boxes[:, :2]).amin(1) if len(boxes) else visible
        gone = (sides <= 1e-5) | (visible <= 0)
        sliver = ~gone & ((sides < self.min_side) | (visible < self.min_visible))
        left = instances[~(gone | sliver)]
        left.remove("visible")
        return left, (int(gone.sum()), int(sliver.sum()))


def record_lost(batch):
    """Put the numbers of a batch's lost objects into the event storage of a training, if samples
    have them and there is a training.

    Args:
        batch (list[dict]): samples of a mapper.
    """
    lost = [x[LOST] for x in batch if LOST in x]
    if not lost:
        return
    try:
        storage = get_event_storage()
    except AssertionError:  # detectron2 0.6 cannot be asked whether there is one
        return
    vanished, slivers = map(sum, zip(*lost, strict=True))
    storage.put_scalars(**{"data/vanished": vanished, "data/slivers": slivers})

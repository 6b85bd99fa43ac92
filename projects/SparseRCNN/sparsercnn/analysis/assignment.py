"""Recording and drawing of the assignment of proposals to objects at each stage."""

import math
from dataclasses import dataclass

import torch
from detectron2.data import DatasetCatalog
from detectron2.data import detection_utils as utils
from detectron2.utils.colormap import colormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..data import SparseRCNNDatasetMapper
from ..data.classes import require_registered
from ..errors import UserError
from ..modeling import SparseRCNN
from ..structures import Targets
from .charts import literal_texts

__all__ = ["StageAssignment", "assign", "draw_assignment", "load_annotated_image"]


@dataclass
class StageAssignment:
    """The assignment of one stage for one image, on the CPU."""

    boxes: torch.Tensor  # (N, 4), absolute xyxy in pixels of the network's input
    target_index: torch.Tensor  # (N,), int64, index of the object; -1 for background

    @property
    def num_positives(self):
        """int: number of proposals assigned to an object."""
        return int((self.target_index >= 0).sum())


def load_annotated_image(cfg, dataset, index):
    """An image with its objects, resized as in evaluation.

    Args:
        cfg (CfgNode): the whole config; INPUT is read.
        dataset (str): a registered data set with objects.
        index (int): index of the image.

    Returns:
        dict: "image" and "instances" as in training, and "file_name".

    Raises:
        UserError: the data set is not registered, has no objects, or has no such image.
    """
    require_registered(dataset)
    records = DatasetCatalog.get(dataset)
    if not 0 <= index < len(records):
        raise UserError(
            f"There is no image {index} in {dataset}: it has {len(records)} images, from 0."
        )
    if "annotations" not in records[index]:
        raise UserError(
            f"{dataset} has no objects to assign proposals to; choose a detection data set."
        )
    mapper = SparseRCNNDatasetMapper(
        True,
        augmentations=utils.build_augmentation(cfg, is_train=False),
        image_format=cfg.INPUT.FORMAT,
    )
    return mapper(records[index])


@torch.no_grad()
def assign(model, annotated_image):
    """Assign the proposals of each stage to the objects of an image, with the model's matcher.

    The model runs as in inference; all stages are assigned, including those without a loss.

    Args:
        model (SparseRCNN): in evaluation mode.
        annotated_image (dict): from :func:`load_annotated_image`.

    Returns:
        list[StageAssignment]: one for each stage.

    Raises:
        UserError: the model is not a SparseRCNN.
    """
    if not isinstance(model, SparseRCNN):
        raise UserError(
            "This model has no matcher; use a config with MODEL.META_ARCHITECTURE SparseRCNN."
        )
    images, image_sizes = model.preprocess_images([annotated_image])
    maps = model.backbone(images.tensor)
    features = [maps[name] for name in model.in_features]
    class_logits, boxes, _ = model.head(features, *model.proposals(features, image_sizes))
    targets = Targets.from_instances([annotated_image["instances"]], model.device)
    boxes = boxes.float()
    assignment = model.criterion.matcher(class_logits.float(), boxes, targets)
    return [
        StageAssignment(boxes=stage_boxes[0].cpu(), target_index=target_index[0].cpu())
        for stage_boxes, target_index in zip(boxes, assignment.target_index, strict=True)
    ]


_INCHES = 2.6  # width of a panel
_MAX_COLUMNS = 4
_OBJECT = {"linewidth": 2.2, "linestyle": (0, (3, 1.5))}
_PROPOSAL = {"linewidth": 0.9}


def draw_assignment(image, stages, instances, names=(), title=""):
    """Draw a panel for each stage: objects as thick dashed boxes, and the proposals assigned to an
    object in its colour.

    Args:
        image (ndarray): (H, W, 3), uint8, RGB, in the size of the network's input.
        stages (list[StageAssignment]): from :func:`assign`.
        instances (Instances): the objects, with `gt_boxes` and `gt_classes`.
        names (sequence[str]): names of the classes.
        title (str): title of the figure.

    Returns:
        matplotlib.figure.Figure: the figure; write it with `savefig`.
    """
    height, width = image.shape[:2]
    rows = math.ceil(len(stages) / _MAX_COLUMNS)
    columns = math.ceil(len(stages) / rows)
    panel = _INCHES * height / width + 0.5
    figure = Figure((_INCHES * columns + 0.3, panel * rows + 0.8), dpi=130, layout="constrained")
    # In grey, so that the colours of the boxes stand out.
    shades = image.mean(axis=2)
    for i, stage in enumerate(stages):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(shades, cmap="gray", vmin=-120, vmax=255, extent=(0, width, height, 0))
        _draw_boxes(axes, stage, instances, names)
        per_object = stage.num_positives / max(len(instances), 1)
        axes.set_title(f"stage {i + 1}: {per_object:.1f} per object", fontsize="small")
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    figure.suptitle(title, fontsize="medium")
    lines = [
        Line2D([], [], color="0.3", label=label, **style)
        for label, style in (
            ("an object; ×n: proposals assigned to it", _OBJECT),
            ("a proposal assigned to the object of its colour", _PROPOSAL),
        )
    ]
    figure.legend(handles=lines, loc="outside lower center", fontsize="x-small", frameon=False)
    return literal_texts(figure)


def _draw_boxes(axes, stage, instances, names):
    colors = colormap(rgb=True, maximum=1)
    for i, box in enumerate(instances.gt_boxes.tensor.tolist()):
        color = colors[i % len(colors)]
        _add_rectangle(axes, box, color, **_OBJECT)
        label = instances.gt_classes[i].item()
        label = names[label] if label < len(names) else f"class {label}"
        count = int((stage.target_index == i).sum())
        axes.text(
            *box[:2],
            f"{label} ×{count}",
            fontsize="x-small",
            va="top",
            bbox={"facecolor": color, "alpha": 0.6, "pad": 0.8, "linewidth": 0},
        )
    for box, i in zip(stage.boxes.tolist(), stage.target_index.tolist(), strict=True):
        if i >= 0 and all(map(math.isfinite, box)):
            _add_rectangle(axes, box, colors[i % len(colors)], **_PROPOSAL)


def _add_rectangle(axes, box, color, **style):
    x1, y1, x2, y2 = box
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, **style))

"""Recording of what the stages of an iterative head do with the proposals of an image."""

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..errors import UserError
from ..modeling import SparseRCNN
from ..structures import Targets

__all__ = ["StageRecorder", "StageTrace"]


@dataclass
class StageTrace:
    """The N proposals of one image at T stages, on the CPU."""

    boxes: Tensor  # (T + 1, N, 4), xyxy as fractions of the image, of the proposals and each stage
    classes: Tensor  # (T, N), of the highest score
    scores: Tensor  # (T, N), the highest
    positives: Tensor  # (T,), proposals assigned to an object by the model's matcher
    num_objects: int
    loss: float  # of the last stage, weighted as in training


class StageRecorder:
    """Records the stages of a model during inference on one image.

    .. code-block:: python

        with StageRecorder(model) as recorder:
            model([{"image": image}])
        trace = recorder.trace(boxes, classes)
    """

    def __init__(self, model):
        """
        Args:
            model (SparseRCNN): in evaluation mode.

        Raises:
            UserError: the model has no stages.
        """
        if not isinstance(model, SparseRCNN):
            raise UserError(
                "This model has no stages; use one with MODEL.META_ARCHITECTURE SparseRCNN."
            )
        self._model = model
        self._head = None

    def __enter__(self):
        self._size = None
        self._hooks = [
            self._model.register_forward_pre_hook(self._see_inputs),
            self._model.head.register_forward_hook(self._see_head),
        ]
        return self

    def __exit__(self, *exception):
        for hook in self._hooks:
            hook.remove()

    def _see_inputs(self, model, args):
        if len(args[0]) != 1 or self._size is not None:
            raise ValueError("A StageRecorder records a single call with one image.")
        self._size = tuple(args[0][0]["image"].shape[-2:])

    def _see_head(self, head, args, output):
        self._head = args[1].float(), output[0].float(), output[1].float()

    @torch.inference_mode()
    def trace(self, boxes, classes):
        """
        Args:
            boxes: (M, 4), xyxy of the image's objects as fractions of its width and height.
            classes: (M,), their classes.

        Returns:
            StageTrace: of the image.

        Raises:
            ValueError: nothing was recorded.
        """
        if self._head is None:
            raise ValueError("Nothing was recorded: run the model inside the with statement.")
        proposals, class_logits, found = self._head
        height, width = self._size
        scale = proposals.new_tensor([width, height, width, height])
        instances = Instances(self._size)
        instances.gt_boxes = Boxes(boxes.to(scale) * scale)
        instances.gt_classes = classes.to(scale.device, torch.int64)
        criterion, assigned = self._model.criterion, []
        hook = criterion.matcher.register_forward_hook(lambda *x: assigned.append(x[-1]))
        try:
            targets = Targets.from_instances([instances], scale.device)
            losses = criterion(class_logits, found, targets)
        finally:
            hook.remove()
        scores, best = self._model.classification.scores(class_logits[:, 0]).max(dim=-1)
        return StageTrace(
            boxes=(torch.cat([proposals[None], found])[:, 0] / scale).cpu(),
            classes=best.cpu(),
            scores=scores.cpu(),
            positives=assigned[0].num_positives.cpu(),
            num_objects=len(instances),
            loss=sum(float(losses[name]) for name in ("loss_ce", "loss_bbox", "loss_giou")),
        )

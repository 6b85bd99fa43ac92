"""Data passed between the parts of a detector.

Dimension letters, used across the package: B images, N proposals per image, M objects of the image
with the most objects, S stages with a loss, T stages, K classes, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = ["Targets", "Assignment"]


@dataclass
class Targets:
    """The objects of a batch, padded to the same number for every image.

    Attributes:
        boxes: (B, M, 4), absolute xyxy in pixels of the network's input; M is at least 1. Padding
            is the box of the whole image: a valid box, whose costs are never NaN.
        classes: (B, M), contiguous class ids; padding is 0.
        valid: (B, M), True for objects, False for padding.
        image_sizes: (B, 4), (w, h, w, h) in pixels of each image before batch padding.
        counts: number of objects per image, on the host.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor
    image_sizes: Tensor
    counts: list[int]

    @classmethod
    def from_instances(cls, instances, device):
        """Pad on the instances' own device, then move to `device` in one copy per field.

        Args:
            instances (list[Instances]): one per image, with `gt_boxes` and `gt_classes`.
            device (torch.device): device of the fields.
        """
        counts = [len(x) for x in instances]
        boxes = [x.gt_boxes.tensor.float() for x in instances]
        image_sizes = boxes[0].new_tensor(
            [[w, h, w, h] for h, w in (x.image_size for x in instances)]
        )
        # M must not be 0 in a batch of empty images: add a row of padding.
        classes = [x.gt_classes for x in instances]
        one_row = max(counts, default=0) == 0
        if one_row:
            boxes[0], classes[0] = boxes[0].new_zeros(1, 4), classes[0].new_zeros(1)
        boxes = pad_sequence(boxes, batch_first=True)
        classes = pad_sequence(classes, batch_first=True)
        numbers = torch.arange(boxes.shape[1], device=boxes.device)
        valid = numbers[None] < torch.tensor(counts, device=boxes.device)[:, None]
        whole_image = torch.cat([torch.zeros_like(image_sizes[:, :2]), image_sizes[:, 2:]], dim=1)
        boxes = torch.where(valid[..., None], boxes, whole_image[:, None])
        return cls(
            boxes=boxes.to(device, non_blocking=True),
            classes=classes.to(device, non_blocking=True),
            valid=valid.to(device, non_blocking=True),
            image_sizes=image_sizes.to(device, non_blocking=True),
            counts=counts,
        )


@dataclass
class Assignment:
    """The object assigned to each proposal at every stage, one-to-one or one-to-many.

    The shapes do not depend on values, so neither matchers nor losses wait for the device.

    Attributes:
        target_index: (S, B, N), int64, the object's row in :class:`Targets`; -1 for background.
        normalizer: (S,), float, divisor of a stage's losses on this worker, before averaging over
            workers: the number of objects for one-to-one matching, of positives for one-to-many.
        capacity: most proposals that can be assigned to an object at each of the S stages, in the
            whole batch, on the host; None: unknown, which stands for B * N. What is computed for
            these proposals alone, such as masks, needs that much memory.
    """

    target_index: Tensor
    normalizer: Tensor
    capacity: list[int] | None = None

    @property
    def positive(self):
        """(S, B, N), True where a proposal is assigned to an object."""
        return self.target_index >= 0

    @property
    def num_positives(self):
        """(S,), float, number of proposals in the batch assigned to an object, per stage."""
        return self.positive.flatten(1).sum(1).float()

    def gather(self, values):
        """Look up a per-object value for each proposal.

        Args:
            values: (B, M) or (B, M, D).

        Returns:
            Tensor: (S, B, N) or (S, B, N, D). Background entries hold row 0; mask them with
            `positive`.
        """
        num_stages = len(self.target_index)
        index = self.target_index.clamp(min=0)
        values = values.expand(num_stages, *values.shape)
        if values.dim() == 4:
            index = index[..., None].expand(-1, -1, -1, values.shape[-1])
        return values.gather(2, index)

    def pairs(self, stage=-1):
        """Index pairs per image, for inspection and tests; waits for the device.

        Args:
            stage (int): index into the S stages.

        Returns:
            list[tuple[Tensor, Tensor]]: per image, indices of proposals and of their objects, of
            equal length.
        """
        result = []
        for row in self.target_index[stage]:
            proposals = torch.nonzero(row >= 0).squeeze(1)
            result.append((proposals, row[proposals]))
        return result

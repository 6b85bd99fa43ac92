"""Masks over boxes, and their parts in other boxes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import roi_align

from ...errors import DataError

__all__ = ["ObjectMasks", "crop_masks"]

# Side of the raster of an object, four times that of a predicted mask of 28 x 28.
_RASTER = 112
_LEAST = 1.0  # pixels, of the sides of a raster's box
# In cells of a raster; so far outside that RoIAlign returns zeros, and small enough for its kernel.
_FAR = 1e6


@dataclass
class ObjectMasks:
    """The ground truth's masks of a batch, all in one tensor.

    A mask is a raster over the object alone instead of the whole image: memory and time depend
    neither on the size of the images nor on that of the largest object.

    Attributes:
        rasters: (G + 1, w, w), bool, of the G objects of all images, and an empty one for images
            without objects. The outermost cells are empty.
        boxes: (G + 1, 4), absolute xyxy, the area of each raster.
        starts: (B,), int64, the row of each image's first object.
    """

    rasters: Tensor
    boxes: Tensor
    starts: Tensor

    @classmethod
    def from_instances(cls, instances, device):
        """Draw on the host, then move to `device` in one copy per field.

        Args:
            instances (list[Instances]): one per image, with `gt_masks`, PolygonMasks or BitMasks,
                unless there is no object.
            device (torch.device): of the fields.

        Raises:
            DataError: an image has objects without masks.
        """
        rasters, boxes, counts = [], [], []
        for x in instances:
            counts.append(len(x))
            if len(x) == 0:
                continue
            if not x.has("gt_masks"):
                raise DataError(
                    "MODEL.MASK_ON is True, but the objects of a training image have no masks "
                    "(gt_masks). Add them in the mapper of the data, or set MODEL.MASK_ON False."
                )
            around = _boxes_of_rasters(x.gt_masks.get_bounding_boxes())
            rasters.append(x.gt_masks.crop_and_resize(around, _RASTER))
            boxes.append(around)
        starts = torch.tensor(counts).cumsum(0) - torch.tensor(counts)
        return cls(
            rasters=_and_one_more(
                rasters, torch.zeros(1, _RASTER, _RASTER, dtype=torch.bool), device
            ),
            boxes=_and_one_more(boxes, torch.tensor([[0.0, 0, 1, 1]]), device),
            starts=starts.to(device, non_blocking=True),
        )

    def crop(self, rois, images, objects, size):
        """What heads should predict: the part of a mask that is in a RoI.

        Args:
            rois: (R, 4), absolute xyxy.
            images: (R,), int64, in [0, B).
            objects: (R,), int64, the object among those of the image.
            size (int): m.

        Returns:
            Tensor: (R, m, m), float32, 1 for cells that the object covers by half or more, and 0.
        """
        index = self.starts[images] + objects
        masks = self.rasters.to(torch.float32)
        return (crop_masks(masks, self.boxes, rois, index, size) >= 0.5).to(torch.float32)


def crop_masks(masks, boxes, rois, index, size):
    """Resample masks that lie over boxes to other boxes; outside of its own box a mask is 0.

    Args:
        masks: (G, w, w), float32.
        boxes: (G, 4), absolute xyxy, the areas of the masks.
        rois: (R, 4), absolute xyxy.
        index: (R,), int64, the mask of each RoI.
        size (int): m.

    Returns:
        Tensor: (R, m, m), means over the cells of the RoIs. Zeros for a RoI that is not finite.
    """
    width = masks.shape[-1]
    of_roi = boxes[index]
    origin, extent = of_roi[:, :2], of_roi[:, 2:] - of_roi[:, :2]
    cells = (rois.float().view(-1, 2, 2) - origin[:, None]) / extent[:, None] * width
    cells = cells.flatten(1)
    inside = cells.isfinite().all(1, keepdim=True)
    cells = torch.where(inside, cells.clamp(-_FAR, _FAR), -_FAR)
    return roi_align(
        masks[:, None],
        torch.cat([index[:, None].to(cells.dtype), cells], dim=1),
        output_size=size,
        # Fixed: as many as a RoI has cells would be millions for the huge boxes of an untrained
        # head. Every cell is read where the RoI is the mask's own box.
        sampling_ratio=-(-width // size),
        aligned=True,
    ).squeeze(1)


def _and_one_more(tensors, last, device):
    """All in one tensor on `device`; they may be on another one than `last`."""
    own_device = tensors[0].device if tensors else last.device
    return torch.cat([*tensors, last.to(own_device)]).to(device, non_blocking=True)


def _boxes_of_rasters(boxes):
    """(G, 4), `boxes` (Boxes) with a cell more on every side, so that masks end inside."""
    x1, y1, x2, y2 = boxes.tensor.float().unbind(1)
    middle = torch.stack([x1 + x2, y1 + y2], dim=1) / 2
    half = torch.stack([x2 - x1, y2 - y1], dim=1).clamp(min=_LEAST) / 2
    half = half * (_RASTER / (_RASTER - 2))
    return torch.cat([middle - half, middle + half], dim=1)

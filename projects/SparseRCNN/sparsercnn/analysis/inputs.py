"""Synthetic batches for any of detectron2's meta-architectures, in training and inference, and
random weights that they can pass through.
"""

import torch
from detectron2.structures import Boxes, Instances, PolygonMasks

__all__ = ["calm_frozen_norms", "input_size", "make_batch"]

_ASPECT = 1216 / 800  # of the size at which detectors for COCO are usually compared
_STEP = 32  # sizes are multiples of it, which pyramids do not pad
_OBJECTS = 7  # per image, about COCO's average


def input_size(cfg):
    """The input size for measuring a config's model: 800 x 1216 if MIN_SIZE_TEST is 800.

    Returns:
        tuple[int, int]: height and width: INPUT.MIN_SIZE_TEST, or 800 if that is 0, and 1.52 times
        the height, at most MAX_SIZE_TEST; rounded down to multiples of 32.
    """
    height = cfg.INPUT.MIN_SIZE_TEST or 800
    width = min(height * _ASPECT, cfg.INPUT.MAX_SIZE_TEST)
    return tuple(max(int(x) // _STEP * _STEP, _STEP) for x in (height, width))


def make_batch(size, num_images=1, device="cpu"):
    """Images with boxes, masks and a label map, all of class 0; random, but the same each time.

    Args:
        size (tuple[int, int]): height and width in pixels.
        num_images (int): B.
        device (str | torch.device): device of everything except the masks.

    Returns:
        list[dict]: one per image, in detectron2's format, without "height" and "width".
    """
    generator = torch.Generator().manual_seed(0)
    return [_make_input(size, generator, device) for _ in range(num_images)]


def calm_frozen_norms(model):
    """Halve what the frozen batch norms of an untrained model (nn.Module) put out, in place.

    With untrained statistics, the features of a deep ResNet grow from block to block to infinity:
    nothing is detected then, and the heads have nothing to compute.

    Returns:
        nn.Module: the model.
    """
    for module in model.modules():
        # detectron2's, torchvision's and, with a prefix, those of transformers.
        if type(module).__name__.endswith("FrozenBatchNorm2d"):
            module.weight.fill_(0.5)
    return model


def _make_input(size, generator, device):
    height, width = size
    scale = torch.tensor([width, height, width, height])
    centre = 0.3 + 0.4 * torch.rand(_OBJECTS, 2, generator=generator)
    half = 0.05 + 0.25 * torch.rand(_OBJECTS, 2, generator=generator)
    boxes = torch.cat([centre - half, centre + half], dim=1) * scale
    instances = Instances(size)
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.zeros(_OBJECTS, dtype=torch.int64)
    instances.gt_masks = PolygonMasks(
        [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
    )
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {
        "image": image.to(device),
        "instances": instances.to(device),
        "sem_seg": torch.zeros(height, width, dtype=torch.int64, device=device),
    }

"""RoIAlign over a whole pyramid at once, as weighted sums of rows."""

import torch
from torch.nn import functional as F

__all__ = ["pool_pyramid", "roi_align_bags"]


def pool_pyramid(features, rois, level_of_roi, *, output_size, strides, sampling_ratio, aligned):
    """RoIAlign (Mask R-CNN, section 3) of each RoI from its own level of the pyramid.

    A bin is a weighted sum of map cells, which is what ``F.embedding_bag`` computes, with a
    backward pass that adds whole rows of C channels. On the CPU that is several times faster than
    torchvision's kernel, which goes through the maps channel by channel and is scalar backwards.
    There is no gradient to the RoIs.

    Args:
        features (list[Tensor]): the levels, finest first, each (B, C, H_l, W_l), of one dtype.
        rois: (R, 5), float32: index of the image, and absolute xyxy in pixels of its input.
        level_of_roi: (R,), int64, index into `features`.
        output_size (int): r, the side of a pooled map.
        strides (list[int]): strides of the levels.
        sampling_ratio (int): samples per bin and axis, at least 1.
        aligned (bool): RoIAlignV2, with the half-pixel offset corrected.

    Returns:
        Tensor: (R, C, r, r), with the channels of a cell next to each other in memory, so that
        ``flatten(2).transpose(1, 2)`` is a contiguous view. Zeros for a RoI that is not finite.
    """
    # No copy but this one if the maps are channels_last. In float32, since the operation wants the
    # weights in the maps' type, and a rounded weight moves the sample.
    rows = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in features]).float()
    shapes = [x.shape[2:] for x in features]
    index, weight = roi_align_bags(
        rois.detach(),
        level_of_roi,
        len(features[0]),
        shapes,
        output_size=output_size,
        strides=strides,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )
    bins = F.embedding_bag(index, rows, mode="sum", per_sample_weights=weight)
    bins = bins.to(features[0].dtype)
    return bins.view(len(rois), output_size, output_size, -1).permute(0, 3, 1, 2)


def roi_align_bags(
    rois, level_of_roi, num_images, shapes, *, output_size, strides, sampling_ratio, aligned
):
    """The cells that each bin sums up, and their weights.

    Arguments are those of :func:`pool_pyramid`, with the number of images B and the shapes
    (H_l, W_l) of the levels instead of the maps.

    Returns:
        tuple[Tensor, Tensor]: int64 index and float32 weight, (R * r * r, 4 * sampling_ratio ** 2).
        Rows are numbered over all levels, finest first, in each by image, line and column.
    """
    R, device = len(rois), rois.device
    table = _level_table(num_images, shapes, strides).to(device)
    height, width, first_row = table[level_of_roi].unbind(1)
    scale = torch.tensor([1 / stride for stride in strides], device=device)[level_of_roi]
    image = rois[:, 0].long()
    x1, y1, x2, y2 = (rois[:, 1:] * scale[:, None]).unbind(1)
    split = {"output_size": output_size, "sampling_ratio": sampling_ratio, "aligned": aligned}
    y, y_weight = _axis(y1, y2, height, **split)
    x, x_weight = _axis(x1, x2, width, **split)
    # (R, r, 1, 2s, 1) and (R, 1, r, 1, 2s): the cells of a bin are the product of both axes'.
    y = (first_row + image * height * width)[:, None, None] + y * width[:, None, None]
    index = y[:, :, None, :, None] + x[:, None, :, None, :]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    return index.view(R * output_size**2, -1), weight.view(R * output_size**2, -1)


def _level_table(num_images, shapes, strides):
    """(L, 3), int64: height, width and number of the first row of each level."""
    rows, table = 0, []
    for height, width in shapes:
        table.append([height, width, rows])
        rows += num_images * height * width
    return torch.tensor(table)


def _axis(start, end, size, *, output_size, sampling_ratio, aligned):
    """Cells and weights of the samples along one axis, divided by their number.

    Args:
        start, end: (R,), in cells.
        size: (R,), int64, number of cells of the map.

    Returns:
        tuple[Tensor, Tensor]: int64 and float32, (R, r, 2 * sampling_ratio).
    """
    R = len(start)
    if aligned:
        start, end = start - 0.5, end - 0.5
    length = end - start if aligned else (end - start).clamp(min=1)
    # In the order in which torchvision's kernels compute it, which round alike then.
    first = start[:, None, None]
    bin_size = (length / output_size)[:, None, None]
    bins = torch.arange(output_size, device=start.device)[:, None]
    samples = torch.arange(sampling_ratio, device=start.device) + 0.5
    position = (first + bins * bin_size + samples * bin_size / sampling_ratio).flatten(1)
    size = size[:, None]
    # A sample more than a cell off the map is 0; also where a comparison with NaN is False.
    inside = (position >= -1) & (position <= size)
    last = size - 1
    position = torch.where(inside, position, 0.0).clamp(min=0)
    low = torch.minimum(position.long(), last)
    high = torch.minimum(low + 1, last)
    fraction = torch.where(low == last, 0.0, position - low)
    cells = torch.stack([low, high], dim=-1)
    weights = torch.stack([1 - fraction, fraction], dim=-1) * inside[..., None] / sampling_ratio
    shape = (R, output_size, 2 * sampling_ratio)
    return cells.view(shape), weights.view(shape)

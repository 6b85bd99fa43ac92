"""Modules that compute what those of a model do, by operators that every runtime knows.

Some parts of the models are written for the speed of PyTorch: they choose a kernel by the device,
or have sizes that depend on the input in ways that an exporter cannot follow.
"""

import copy

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicStem
from torch import nn
from torchvision.ops import roi_align

from ..inference.optimization import fold_norms
from ..modeling.necks.pooled_attention import GRID, GridPooling, WindowPooling
from ..modeling.pooler import PyramidRoIAlign
from ..modeling.segmentation.danet_attention import PositionAttention, ProjectedPositionAttention

__all__ = ["LevelwiseRoIAlign", "exportable_copy"]


def exportable_copy(model):
    """A copy of a model in evaluation mode, without gradients, whose modules can be exported.

    Batch norms are folded into their convolutions.
    """
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    fold_norms(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            for kind, replace in _REPLACEMENTS.items():
                if type(child) is kind:
                    setattr(parent, name, replace(child))
    if model.backbone.size_divisibility <= 1 and type(model.backbone.stem) is BasicStem:
        model.backbone.stem = SlicedStem(model.backbone.stem)
    return model


class LevelwiseRoIAlign(PyramidRoIAlign):
    """:class:`PyramidRoIAlign` with one RoIAlign per level, each of the boxes of that level alone.

    The kernels of runtimes, unlike torchvision's, do not skip samples off the map.
    """

    @classmethod
    def of(cls, pooler):
        """The same pooling as `pooler`, a :class:`PyramidRoIAlign`."""
        return cls(
            output_size=pooler.output_size,
            strides=[round(1 / scale) for scale in pooler.scales],
            sampling_ratio=pooler.sampling_ratio,
            aligned=pooler.aligned,
        )

    @classmethod
    def of_detectron2(cls, pooler):
        """The same pooling as `pooler`, a :class:`detectron2.modeling.poolers.ROIPooler`."""
        levels = pooler.level_poolers
        return cls(
            output_size=pooler.output_size[0],
            strides=[round(1 / level.spatial_scale) for level in levels],
            sampling_ratio=levels[0].sampling_ratio,
            aligned=levels[0].aligned,
        )

    def prepare(self, features):
        """The levels themselves."""
        return features

    def forward(self, pyramid, boxes):
        """
        Args:
            pyramid (list[Tensor]): the levels, finest first, each (B, C, H_l, W_l).
            boxes: (B, N, 4), absolute xyxy.

        Returns:
            Tensor: (B * N, C, r, r), ordered by image.
        """
        B, N, _ = boxes.shape
        boxes = boxes.flatten(0, 1)
        level_of_box = self.levels_of(boxes)
        image_of_box = torch.arange(B, device=boxes.device)[:, None].expand(B, N).flatten()
        rois = torch.cat([image_of_box[:, None].to(boxes.dtype), boxes], dim=1)
        r = self.output_size
        pooled = boxes.new_zeros(B * N, pyramid[0].shape[1], r, r)
        for i, level in enumerate(pyramid):
            # As floats: TensorRT finds non-zero elements among these alone.
            index = (level_of_box == i).float().nonzero().flatten()
            of_level = roi_align(
                level,
                rois.index_select(0, index),
                output_size=r,
                spatial_scale=self.scales[i],
                sampling_ratio=self.sampling_ratio,
                aligned=self.aligned,
            )
            pooled = pooled.index_put((index,), of_level)
        return pooled


class WholePositionAttention(nn.Module):
    """Position attention of DANet with all scores at once, which runtimes store as they like."""

    def __init__(self, original):
        super().__init__()
        self.projections = None
        if isinstance(original, ProjectedPositionAttention):
            self.projections = nn.ModuleList([original.query, original.key, original.value])
            self.gamma = original.gamma

    def forward(self, x):
        """(B, C, H, W) to (B, C, H, W)."""
        if self.projections is None:
            query = key = value = _tokens(x)
        else:
            query, key, value = (_tokens(layer(x)) for layer in self.projections)
        weights = torch.bmm(query, key.transpose(1, 2)).softmax(-1)
        attended = torch.bmm(weights, value).transpose(1, 2).reshape(x.shape)
        return x + (attended if self.projections is None else self.gamma * attended)


class MatrixPooling(nn.Module):
    """:class:`GridPooling` or :class:`WindowPooling` as a product with a matrix for each axis.

    The windows of the first depend on the size of the map, which those of no exported operator can,
    and the second has an exporter ask whether windows leave a remainder.
    """

    def __init__(self, original):
        super().__init__()
        self.windows = getattr(original, "windows", None)

    def forward(self, x):
        """(B, C, H, W) to (B, T, C), as the original; maps must not be smaller than a window."""
        pooled = []
        for window in self.windows or (None,):
            rows, columns = (_window_means(size, window, x) for size in x.shape[2:])
            pooled.append(_tokens(rows @ x @ columns.transpose(0, 1)))
        return torch.cat(pooled, dim=1)


def _window_means(size, window, like):
    """(T, size): in row k, 1 / n at the n positions of window k: adjacent windows of equal width
    without a remainder, or, for None, the 7 cells from floor(k size / 7) to ceil((k + 1) size / 7).
    """
    if window is None:
        cell = torch.arange(GRID, device=like.device)[:, None]
        start = torch.div(cell * size, GRID, rounding_mode="floor")
        end = torch.div((cell + 1) * size + GRID - 1, GRID, rounding_mode="floor")
    else:
        start = torch.arange(size // window, device=like.device)[:, None] * window
        end = start + window
    position = torch.arange(size, device=like.device)
    inside = (position >= start) & (position < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


class SlicedStem(nn.Module):
    """A ResNet's stem whose max pooling has stride 1 and is sliced: the exporter need not know
    whether sides are even, as it does for images that are not padded to a multiple."""

    def __init__(self, stem):
        super().__init__()
        self.conv1 = stem.conv1

    def forward(self, x):
        """(B, 3, H, W) to (B, C, ceil(H / 4), ceil(W / 4))."""
        x = F.max_pool2d(F.relu(self.conv1(x)), kernel_size=3, stride=1, padding=1)
        return x[:, :, ::2, ::2]


class EverySecond(LastLevelMaxPool):
    """The stride-2 max pooling with windows of one pixel, as a slice."""

    def forward(self, x):
        """(B, C, H, W) to [(B, C, ceil(H / 2), ceil(W / 2))]."""
        return [x[:, :, ::2, ::2]]


def _tokens(x):
    """(B, C, H, W) to (B, H * W, C), in row-major order."""
    return x.flatten(2).transpose(1, 2)


_REPLACEMENTS = {
    PyramidRoIAlign: LevelwiseRoIAlign.of,
    PositionAttention: WholePositionAttention,
    ProjectedPositionAttention: WholePositionAttention,
    GridPooling: MatrixPooling,
    WindowPooling: MatrixPooling,
    LastLevelMaxPool: lambda original: EverySecond(),
}

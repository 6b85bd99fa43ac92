"""Recording and drawing of the CBAM attention of a dual-attention detector."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..errors import UserError
from ..modeling.interaction import DualAttention
from .charts import literal_texts

__all__ = ["AttentionRecorder", "StageAttention", "draw_attention"]


@dataclass
class StageAttention:
    """The attention of one stage to the RoI of one proposal, on the CPU."""

    box: torch.Tensor  # (4,), xyxy of the RoI as fractions of the image's width and height
    channels: torch.Tensor  # (NUM_CBAM, C), c of each repetition, in (0, 1)
    positions: torch.Tensor  # (NUM_CBAM, r, r), s of each repetition, in (0, 1)


class AttentionRecorder:
    """Records the attention of a model during inference on one image.

    .. code-block:: python

        with AttentionRecorder(model) as recorder:
            model([{"image": image}])
        found, stages = recorder.detection(0)
    """

    def __init__(self, model):
        """
        Args:
            model (SparseRCNN): in evaluation mode.

        Raises:
            UserError: the model's interaction has no CBAM.
        """
        stages = getattr(getattr(model, "head", None), "head_series", [])
        interactions = [getattr(stage, "inst_interact", None) for stage in stages]
        if not interactions or not all(
            isinstance(x, DualAttention) and x.cbam for x in interactions
        ):
            raise UserError(
                "This model has no channel and position attention; use a config with "
                "MODEL.SparseRCNN.INTERACTION 'dual_attention' and DUAL_ATTENTION.NUM_CBAM of 1 "
                "or more."
            )
        self._model = model
        self._outputs = {}

    def __enter__(self):
        head = self._model.head
        self._image_size = None
        self._boxes = {}  # by stage
        self._outputs = defaultdict(list)  # with ROI_CHUNK, a gate is called several times
        self._hooks = [self._model.register_forward_pre_hook(self._see_inputs)]
        cbams = [cbam for stage in head.head_series for cbam in stage.inst_interact.cbam]
        gates = [gate for cbam in cbams for gate in (cbam.channel_gate, cbam.position_gate)]
        self._hooks += [x.register_forward_pre_hook(self._see_boxes) for x in head.head_series]
        self._hooks += [x.register_forward_hook(self._see_output) for x in (head, *gates)]
        return self

    def __exit__(self, *exception):
        for hook in self._hooks:
            hook.remove()

    def _see_inputs(self, model, args):
        if len(args[0]) != 1 or self._image_size is not None:
            raise ValueError("An AttentionRecorder records a single call with one image.")
        self._image_size = tuple(args[0][0]["image"].shape[-2:])

    def _see_boxes(self, stage, args):
        self._boxes[stage] = args[1]

    def _see_output(self, module, args, output):
        self._outputs[module].append(output)

    @torch.inference_mode()
    def detection(self, index):
        """
        Args:
            index (int): rank of the detection, 0 for the best.

        Returns:
            tuple: Instances with only that detection, in pixels of the network's input, and
            list[StageAttention], one for each stage.

        Raises:
            UserError: there are fewer detections.
            ValueError: nothing was recorded.
        """
        head = self._model.head
        if head not in self._outputs:
            raise ValueError("Nothing was recorded: run the model inside the with statement.")
        logits, boxes, *_ = (x[-1] for x in self._outputs[head][0])
        (found,) = self._model.inference(logits, boxes, [self._image_size])
        if not 0 <= index < len(found):
            raise UserError(
                f"There is no detection {index}: the image has {len(found)} detections, from 0."
            )
        found = found[index : index + 1]
        # The box of a detection equals that of its proposal, whatever the class.
        proposal = (boxes[0] == found.pred_boxes.tensor).all(1).nonzero()[0, 0]
        return found.to("cpu"), [self._attention(stage, proposal) for stage in head.head_series]

    def _attention(self, stage, proposal):
        height, width = self._image_size
        cbams = stage.inst_interact.cbam

        def stack(gates):
            outputs = [torch.cat(self._outputs[gate])[proposal] for gate in gates]
            return torch.stack(outputs).float().cpu()

        return StageAttention(
            box=self._boxes[stage][0, proposal].float().cpu()
            / torch.tensor([width, height, width, height]),
            channels=stack(cbam.channel_gate for cbam in cbams).flatten(1),
            positions=stack(cbam.position_gate for cbam in cbams).squeeze(1),
        )


_INCHES = 1.7  # side of a panel
_BOX_COLOR = "#ff3b30"


def draw_attention(image, stages, title=""):
    """Draw a row for each stage: the image with the RoI, and for each repetition of the CBAM its
    position attention over the RoI and its channel attention as a strip.

    The colour scale is 0 to 1 in all panels.

    Args:
        image (ndarray): (H, W, 3), uint8, RGB, the whole image in any size.
        stages (list[StageAttention]): from :meth:`AttentionRecorder.detection`.
        title (str): title of the figure.

    Returns:
        matplotlib.figure.Figure: the figure; write it with `savefig`.
    """
    repetitions = len(stages[0].channels)
    size = (_INCHES * (repetitions + 1.4), _INCHES * 1.3 * len(stages) + 1.0)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.add_gridspec(2 * len(stages), repetitions + 1, height_ratios=[5, 1] * len(stages))
    for row, stage in enumerate(stages):
        whole = figure.add_subplot(grid[2 * row : 2 * row + 2, 0])
        box = _draw_roi(whole, image, stage)
        whole.set_ylabel(f"stage {row + 1}")
        for column in range(repetitions):
            over_roi = figure.add_subplot(grid[2 * row, column + 1])
            shades = _draw_positions(over_roi, image, box, stage.positions[column])
            strip = figure.add_subplot(grid[2 * row + 1, column + 1])
            strip.imshow(stage.channels[column][None], vmin=0, vmax=1, aspect="auto")
            strip.set(xticks=[], yticks=[])
            if row == 0:
                over_roi.set_title(f"CBAM {column + 1}", fontsize="medium")
    figure.suptitle(title)
    figure.colorbar(
        shades,
        ax=figure.axes,
        location="bottom",
        shrink=0.6,
        aspect=40,
        label="attention to positions (maps) and channels (strips)",
    )
    return literal_texts(figure)


def _draw_roi(axes, image, stage):
    """Draw the whole image with the RoI; returns the RoI in pixels, at least 1 x 1."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (stage.box.numpy() * np.array([width, height, width, height])).tolist()
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    axes.imshow(image, extent=(0, width, height, 0))
    axes.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=_BOX_COLOR, linewidth=1.5)
    )
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    return x1, y1, x2, y2


def _draw_positions(axes, image, box, positions):
    x1, y1, x2, y2 = box
    height, width = image.shape[:2]
    axes.set_facecolor("0.8")  # visible where the RoI reaches beyond the image
    # In grey, so that the colours of the map stand out.
    axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    shades = axes.imshow(positions, extent=(x1, x2, y2, y1), vmin=0, vmax=1, alpha=0.5)
    axes.set(xlim=(x1, x2), ylim=(y2, y1), aspect="auto", xticks=[], yticks=[])
    return shades

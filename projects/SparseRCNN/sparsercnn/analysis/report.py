"""Cost of the models of configs, as a table."""

from dataclasses import dataclass

import torch
from detectron2.modeling import build_model

from ..engine.solver import build_optimizer
from ..errors import UserError
from ..modeling.activation_checkpoint import checkpoint_activations
from .cost import ForwardCost, count_forward, count_parameters
from .inputs import calm_frozen_norms, input_size, make_batch
from .memory import StepMemory, measure_step
from .tables import markdown_table

__all__ = ["ModelCost", "find_configs", "format_costs", "measure_model"]

_PARTS = ("backbone", "neck", "proposals", "head", "interaction", "other")


@dataclass
class ModelCost:
    """Cost of a config's model for one image of `size` (height, width)."""

    size: tuple
    trainable: int
    parameters: int
    forward: ForwardCost
    step: StepMemory


def find_configs(folder):
    """Find the configs of models below a folder, without base files and sweeps.

    Args:
        folder (Path): the folder "configs".

    Returns:
        list[Path]: sorted.

    Raises:
        UserError: the folder has no config.
    """
    found = sorted(
        path
        for path in folder.rglob("*.yaml")
        if not path.name.startswith("Base") and "sweeps" not in path.relative_to(folder).parts
    )
    if not found:
        raise UserError(f"There is no config below {folder}; give files with --config-file.")
    return found


def measure_model(cfg, size=None, device="cpu"):
    """Build a config's model with random weights and measure it.

    Operations are counted on the CPU, where RoI pooling runs only on the boxes of each level; on a
    GPU, it would skip samples inside the kernel. Memory is that of a training step of one image in
    float32, with the config's optimizer and activation checkpointing.

    Args:
        cfg (CfgNode): the whole config; MODEL.DEVICE and MODEL.WEIGHTS are ignored.
        size (tuple[int, int]): height and width; None: see :func:`input_size`.
        device (str): device of the training step. On CUDA, its peak memory is measured.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    # With random weights, scores are low, and the mask head runs only on detections above it.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    size = size or input_size(cfg)
    torch.manual_seed(0)
    model = calm_frozen_norms(build_model(cfg)).eval()
    forward = count_forward(model, make_batch(size))

    recompute = cfg.MODEL.ACTIVATION_CHECKPOINT
    checkpoint_activations(model, backbone=recompute.BACKBONE, head=recompute.HEAD)
    model.train().to(device)
    optimizer = build_optimizer(cfg, model)
    step = measure_step(model, make_batch(size, device=device), optimizer)
    return ModelCost(size, *count_parameters(model), forward=forward, step=step)


def format_costs(costs):
    """
    Args:
        costs (dict[str, ModelCost]): by name of the config.

    Returns:
        str: Markdown table with a row for each config, and a legend of the columns.
    """
    parts = [p for p in _PARTS if any(p in cost.forward.flops for cost in costs.values())]
    rows = [_row(name, cost, parts) for name, cost in costs.items()]
    if all(cost.step.measured is None for cost in costs.values()):
        for row in rows:
            del row["measured MiB"]
    header = list(rows[0]) if rows else ["config"]
    table = markdown_table(header, [row.values() for row in rows])
    free = ", ".join(sorted(set().union(*(cost.forward.uncounted for cost in costs.values()))))
    return f"{table}\n\n{_LEGEND}\n\nOperators counted as free: {free}.\n"


def _row(name, cost, parts):
    """Cells by column."""
    flops, step = cost.forward.flops, cost.step
    state = step.weights + step.moments + step.gradients
    memory = {"state": state, "kept": step.kept, "step": step.needed, "measured": step.measured}
    return {
        "config": name,
        "input": "x".join(map(str, cost.size)),
        "trained M": f"{cost.trainable / 1e6:.1f}",
        "all M": f"{cost.parameters / 1e6:.1f}",
        "GFLOPs": f"{sum(flops.values()) / 1e9:.2f}",
        **{part: f"{flops[part] / 1e9:.2f}" if part in flops else "" for part in parts},
        "activations M": f"{cost.forward.activations / 1e6:.1f}",
        **{f"{x} MiB": "" if n is None else f"{n / 2**20:,.0f}" for x, n in memory.items()},
    }


_LEGEND = """\
All figures are for one image of the given height and width, with random weights and as many
detections as the config allows.

- **trained**, **all**: parameters in millions. Frozen batch norms are buffers and do not count.
- **GFLOPs**: 10^9 multiply-adds of inference; the following columns are its parts. **head** is
  without **interaction**, which has its own column. Convolutions, matrix products, attention
  (without its softmax), norms, resizing, average pooling and RoIAlign are counted.
- **activations**: output values of convolutions, matrix products and attention, in millions.
- **state**: weights, gradients and optimizer moments of a training step in float32.
- **kept**: activations that the forward pass of the step keeps for the backward pass, each storage
  once. They depend only on the operators, not on the machine.
- **step**: lower bound on the memory of the step, without the workspace of operators: weights,
  moments, and the larger of activations and gradients, since activations are freed while gradients
  are allocated.
- **measured**, on a GPU: peak memory of all tensors during a step."""

"""What the models of configs cost, as a table."""

import itertools
from dataclasses import dataclass

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model

from ..engine.solver import build_optimizer
from ..errors import UserError
from ..modeling.activation_checkpoint import checkpoint_activations
from .cost import ForwardCost, count_forward, count_parameters
from .inputs import input_size, make_batch
from .memory import StepMemory, measure_step
from .tables import markdown_table

__all__ = ["ModelCost", "find_configs", "format_costs", "measure_model"]

_PARTS = ("backbone", "neck", "proposals", "head", "interaction", "other")


@dataclass
class ModelCost:
    """What a config's model costs, at one image of `size` (height, width)."""

    size: tuple
    trainable: int
    parameters: int
    forward: ForwardCost
    step: StepMemory


def find_configs(folder):
    """The YAML files of models below a folder: not those that others are based on, nor sweeps.

    Args:
        folder (Path): "configs".

    Returns:
        list[Path]: sorted.

    Raises:
        UserError: there are none.
    """
    found = sorted(
        path
        for path in folder.rglob("*.yaml")
        if not path.name.startswith("Base") and "sweeps" not in path.relative_to(folder).parts
    )
    if not found:
        raise UserError(f"There is no config below {folder}.")
    return found


def measure_model(cfg, size=None, device="cpu"):
    """Build a config's model with random weights and measure it.

    Operations are counted on the CPU, where RoI pooling skips no work by other means than
    leaving it out. Memory is that of a training step of one image in float32, with the config's
    optimizer and activation checkpointing.

    Args:
        cfg (CfgNode): MODEL.DEVICE and MODEL.WEIGHTS have no say.
        size (tuple[int, int]): height and width; None: see :func:`input_size`.
        device (str): of the training step. On CUDA its peak is measured.

    Returns:
        ModelCost:
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    # Random weights are sure of nothing, and a mask head works on what passes the threshold.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    size = size or input_size(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    _keep_features_finite(model)
    forward = count_forward(model, make_batch(size))

    recompute = cfg.MODEL.ACTIVATION_CHECKPOINT
    checkpoint_activations(model, backbone=recompute.BACKBONE, head=recompute.HEAD)
    model.train().to(device)
    optimizer = build_optimizer(cfg, model)
    step = measure_step(model, make_batch(size, device=device), optimizer)
    return ModelCost(size, *count_parameters(model), forward=forward, step=step)


def _keep_features_finite(model):
    # Statistics of no training let a deep ResNet's features grow from block to block, at last to
    # infinity, and then nothing is detected and no head has any work.
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.fill_(0.5)


def format_costs(costs):
    """
    Args:
        costs (dict[str, ModelCost]): by the name of the config.

    Returns:
        str: Markdown: a table with a row for each, and what its columns mean.
    """
    parts = [p for p in _PARTS if any(p in cost.forward.flops for cost in costs.values())]
    measured = any(cost.step.measured is not None for cost in costs.values())
    header = ["config", "input", "trained M", "all M", "GFLOPs", *parts, "activations M"]
    header += ["state MiB", "kept MiB", "step MiB", *(["measured MiB"] if measured else [])]
    rows = [[name, *_cells(cost, parts, measured)] for name, cost in costs.items()]
    table = markdown_table(header, rows)
    uncounted = set(itertools.chain.from_iterable(c.forward.uncounted for c in costs.values()))
    free = ", ".join(sorted(uncounted))
    return f"{table}\n\n{_LEGEND}\n\nOperators met that count as free: {free}.\n"


def _cells(cost, parts, measured):
    flops, step = cost.forward.flops, cost.step
    cells = ["x".join(map(str, cost.size)), _millions(cost.trainable), _millions(cost.parameters)]
    cells += [_billions(sum(flops.values()))]
    cells += [_billions(flops[part]) if part in flops else "" for part in parts]
    cells += [_millions(cost.forward.activations)]
    state = step.weights + step.moments + step.gradients
    cells += [_mebibytes(n) for n in (state, step.kept, step.needed)]
    return [*cells, _mebibytes(step.measured)] if measured else cells


def _millions(n):
    return f"{n / 1e6:.1f}"


def _billions(n):
    return f"{n / 1e9:.2f}"


def _mebibytes(n):
    return "" if n is None else f"{n / 2**20:,.0f}"


_LEGEND = """\
All for one image of the given height and width, with random weights, and as many detections as the
config lets through.

- **trained**, **all**: parameters in millions. Frozen batch norms are buffers and do not count.
- **GFLOPs**: of inference, 10^9 multiply-adds, and their parts in the columns that follow; **head**
  is without **interaction**, which has a column of its own. Counted are convolutions, matrix
  products, attention (without its softmax), norms, resizing, average pooling and RoIAlign.
- **activations**: values that convolutions, matrix products and attention give, in millions.
- **state**: weights, gradients and optimizer moments of a training step in float32.
- **kept**: activations that the forward pass of the step keeps for the backward pass, each storage
  once. It follows from the operators, not from the machine.
- **step**: what the step needs at least, less the operators' own workspace: weights, moments, and
  activations or gradients, whichever is more, since the former go as the latter come.
- **measured**, where there was a GPU: the most that tensors held on it during a step."""

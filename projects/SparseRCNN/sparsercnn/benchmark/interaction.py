"""Training step of one detector with each interaction, at equal RoI size."""

import gc
import statistics
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.modeling import build_model

from ..analysis import count_parameters, make_batch, markdown_table
from ..analysis.memory import StepMemory, measure_step, train_step
from ..engine.solver import build_optimizer
from . import common

__all__ = ["SHORT", "StepResult", "add_arguments", "measure_steps", "run"]

SHORT = True

_REFERENCE = "dynamic_conv"
# For each RoI size, the reference and the published shape of dual attention with that size.
VARIANTS = {
    (_REFERENCE, 7): {},
    ("dual_attention", 7): {"NUM_CBAM": 4, "NUM_TRANSFORMER": 1, "PRE_NORM": True},
    (_REFERENCE, 5): {},
    ("dual_attention", 5): {"NUM_CBAM": 1, "NUM_TRANSFORMER": 4, "PRE_NORM": False},
}


@dataclass
class StepResult:
    """Measurements of a training step of one variant."""

    parameters: int  # that are trained
    seconds: list  # of each timed step; on the CPU, processor time of all threads
    memory: StepMemory

    @property
    def median(self):
        return statistics.median(self.seconds)


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    default = "quickstart/sparsercnn"
    common.add_config_arguments(
        parser, default, "the detector; its interaction and RoI size are replaced"
    )
    parser.add_argument("--images", type=int, default=2, help="images per step (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="steps per round (%(default)s)")


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns a Markdown table."""
    cfg, size = common.load_config_and_size(args)
    batch = make_batch(size, args.images, args.device)
    results = measure_steps(cfg, batch, args.device, steps=args.steps, rounds=args.rounds)
    return (
        f"{args.config_file}, batch of {args.images} at {size[0]}x{size[1]}, float32, "
        f"{common.describe_place(args.device)}; median of {args.steps * args.rounds} steps, "
        f"variants in turn.\n\n{_format(results)}"
    )


def measure_steps(cfg, batch, device, *, steps=3, rounds=3):
    """Train each variant of a detector for a few steps in every round.

    Args:
        cfg (CfgNode): config of the detector.
        batch (list[dict]): see :func:`~sparsercnn.analysis.inputs.make_batch`.
        device (str): device of the batch.
        steps (int): timed steps per round, after an untimed one.
        rounds (int): number of rounds; each variant is built anew in each.

    Returns:
        dict[tuple[str, int], StepResult]: by interaction and RoI size.
    """
    results = {}
    for _ in range(rounds):
        for key in VARIANTS:
            variant = _configure(cfg, *key, device)
            torch.manual_seed(0)
            model = build_model(variant).train()
            optimizer = build_optimizer(variant, model)
            if key not in results:
                memory = measure_step(model, batch, optimizer)
                results[key] = StepResult(count_parameters(model)[0], [], memory)
            step = {"step": partial(train_step, model, batch, optimizer)}
            timed = common.time_in_turn(step, steps, device, clock=common.processor_seconds)
            results[key].seconds += timed["step"]
            del model, optimizer, step
            gc.collect()  # free the variant before the next one is built
    return results


def _configure(cfg, interaction, resolution, device):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    cfg.MODEL.SparseRCNN.INTERACTION = interaction
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = resolution
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.update(VARIANTS[interaction, resolution])
    return cfg


def _format(results):
    """A row for each variant, with the ratios to the reference of the same RoI size."""
    header = ["interaction", "RoI", "trained M", "s/step", "ratio", "kept MiB", "ratio"]
    header += ["step MiB", "ratio"]
    rows = []
    for (interaction, resolution), result in results.items():
        reference = results[_REFERENCE, resolution]
        cells = [interaction, f"{resolution}x{resolution}", f"{result.parameters / 1e6:.1f}"]
        cells += common.with_ratio(result.median, reference.median, ".3f")
        for of in (lambda memory: memory.kept, lambda memory: memory.measured or memory.needed):
            cells += common.with_ratio(of(result.memory), of(reference.memory), ",.0f", 2**20)
        rows.append(cells)
    return f"{markdown_table(header, rows)}\n\n{_LEGEND}"


_LEGEND = """\
Ratios are to dynamic convolution at the same RoI size. **s/step**: elapsed time on a GPU, processor
time of all threads on the CPU. **kept**: activations that the forward pass keeps for the backward
pass. **step**: peak memory of the whole step, measured on a GPU; on the CPU, weights, moments, and
the larger of activations and gradients."""

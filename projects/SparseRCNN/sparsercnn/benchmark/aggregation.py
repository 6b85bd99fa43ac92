"""Each feature aggregation of a pyramid compared with the sum: operations, time and memory."""

from dataclasses import dataclass, field

import torch
from detectron2.modeling import build_backbone
from torch import nn

from ..analysis import bytes_kept_for_backward, make_batch, markdown_table
from ..analysis.cost import count_forward, count_parameters
from ..modeling.necks import AGGREGATIONS
from . import common

__all__ = ["SHORT", "NeckResult", "add_arguments", "measure_necks", "run"]

SHORT = False

_REFERENCE = "sum"


@dataclass
class NeckResult:
    """Measurements of the neck of one aggregation."""

    parameters: int
    flops: int  # multiply-adds of the forward pass
    kept: int  # bytes of activations that the forward pass keeps for the backward pass
    peak: int | None = None  # bytes allocated in both passes; None on the CPU
    # Of each round: "forward" and "both" passes of the neck, and "backbone", both passes of the
    # bottom-up network and the neck.
    seconds: dict = field(default_factory=dict)


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    default = "attention_fpn/cascade_mask_rcnn.res50.sum.1x"
    common.add_config_arguments(
        parser, default, "config whose backbone is built with each aggregation"
    )


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns a Markdown table."""
    cfg, size = common.load_config_and_size(args)
    results = measure_necks(cfg, size, args.device, rounds=args.rounds)
    return (
        f"{args.config_file}, one image of {size[0]}x{size[1]}, float32, "
        f"{common.describe_place(args.device)}; shortest time of {args.rounds} rounds over all "
        f"variants.\n\n{_format(results)}"
    )


def measure_necks(cfg, size, device, *, rounds=3):
    """Build a config's backbone with each aggregation, and time all of them in every round.

    Args:
        cfg (CfgNode): the whole config, with backbone `build_resnet_attention_fpn_backbone`.
        size (tuple[int, int]): height and width of the image.
        device (str): device to measure on.
        rounds (int): timed rounds, after an untimed one.

    Returns:
        dict[str, NeckResult]: by aggregation.
    """
    necks, flops = {}, {}
    for name in AGGREGATIONS:
        variant = cfg.clone()
        variant.defrost()
        variant.MODEL.FPN.AGGREGATION = name
        backbone = build_backbone(variant)
        flops[name] = count_forward(_Detector(backbone).eval(), make_batch(size)).flops["neck"]
        # What is left is the neck, with the bottom-up maps as its input.
        bottom_up, backbone.bottom_up = backbone.bottom_up, nn.Identity()
        necks[name] = backbone.to(device).train()
    bottom_up.to(device).train()
    image = torch.randn(1, 3, *size, device=device)
    maps = {key: x.detach().requires_grad_() for key, x in bottom_up(image).items()}
    results, functions = {}, {}
    for name, neck in necks.items():
        passes = _passes(neck, maps, bottom_up, image)
        functions |= {(name, key): function for key, function in passes.items()}
        kept = bytes_kept_for_backward(passes["forward"], without=neck.parameters())
        parameters = count_parameters(neck)[1]
        results[name] = NeckResult(parameters, flops[name], kept, _peak(passes["both"], device))
    for (name, key), values in common.time_in_turn(functions, rounds, device).items():
        results[name].seconds[key] = values
    return results


class _Detector(nn.Module):
    """A backbone with the inputs of a detector, for :func:`count_forward`."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs):
        return self.backbone(torch.stack([x["image"].float() for x in inputs]))


def _passes(neck, maps, bottom_up, image):
    """What is timed, by the keys of :attr:`NeckResult.seconds`."""
    return {
        "forward": lambda: neck(maps),
        "both": lambda: _backward(neck(maps)),
        "backbone": lambda: _backward(neck(bottom_up(image))),
    }


def _backward(levels):
    torch.autograd.backward(list(levels.values()), [torch.ones_like(x) for x in levels.values()])


def _peak(both_passes, device):
    if not device.startswith("cuda"):
        return None
    both_passes()
    torch.cuda.reset_peak_memory_stats(device)
    base = torch.cuda.memory_allocated(device)
    both_passes()
    return torch.cuda.max_memory_allocated(device) - base


def _format(results):
    """A row for each aggregation, with the ratios to the sum."""
    reference = results[_REFERENCE]
    header = ["aggregation", "neck M", "GFLOPs", "forward s", "ratio", "both s", "ratio"]
    header += ["backbone s", "ratio", "kept MiB", "ratio"]
    header += [] if reference.peak is None else ["peak MiB", "ratio"]
    rows = []
    for name, result in results.items():
        cells = [name, f"{result.parameters / 1e6:.2f}", f"{result.flops / 1e9:.1f}"]
        for key, values in result.seconds.items():
            cells += common.with_ratio(min(values), min(reference.seconds[key]), ".3f")
        cells += common.with_ratio(result.kept, reference.kept, ",.0f", 2**20)
        if result.peak is not None:
            cells += common.with_ratio(result.peak, reference.peak, ",.0f", 2**20)
        rows.append(cells)
    return f"{markdown_table(header, rows)}\n\n{_LEGEND}"


_LEGEND = """\
Ratios are to the sum. Parameters, operations (multiply-adds), times of the forward pass and of
**both** passes, and activations **kept** for the backward pass are those of the neck alone;
**backbone** is both passes of the bottom-up network and the neck."""

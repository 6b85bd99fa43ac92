"""Each feature aggregation of a pyramid compared with the sum: operations, time and memory."""

from dataclasses import dataclass, field

import torch
from detectron2.modeling import build_backbone
from torch import nn

from ..analysis import (
    bytes_kept_for_backward,
    count_forward,
    count_parameters,
    make_batch,
    markdown_table,
)
from ..engine.setup import load_config
from ..modeling.necks import AGGREGATIONS
from .common import add_device_argument, describe_place, elapsed_seconds

__all__ = ["SHORT", "NeckResult", "add_arguments", "measure_necks", "run"]

SHORT = False

_REFERENCE = "sum"


@dataclass
class NeckResult:
    """Measurements of one aggregation.

    Attributes:
        parameters (int): parameters of the neck.
        flops (int): multiply-adds of the neck's forward pass.
        kept (int): bytes of activations that its forward pass keeps for the backward pass.
        peak (int): peak bytes allocated in a forward and backward pass of the neck; None on the
            CPU, where it cannot be measured.
        seconds (dict[str, list[float]]): time of each round: "forward" and "both" passes of the
            neck, and "backbone", both passes of the bottom-up network and the neck.
    """

    parameters: int
    flops: int
    kept: int
    peak: int | None = None
    seconds: dict = field(default_factory=lambda: {"forward": [], "both": [], "backbone": []})


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    parser.add_argument(
        "--config-file",
        default="configs/attention_fpn/cascade_mask_rcnn.res50.sum.1x.yaml",
        metavar="FILE",
        help="config whose backbone is built with each aggregation (%(default)s)",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(800, 1216),
        metavar=("HEIGHT", "WIDTH"),
        help="size of the image in pixels (%(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (%(default)s)")
    add_device_argument(parser, "device to measure on")


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns a Markdown table."""
    cfg = load_config(args.config_file, register=False)
    results = measure_necks(cfg, tuple(args.size), args.device, rounds=args.rounds)
    return (
        f"{args.config_file}, one image of {args.size[0]}x{args.size[1]}, float32, "
        f"{describe_place(args.device)}; shortest time of {args.rounds} rounds over all variants."
        f"\n\n{_format(results)}"
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
    image = torch.randn(1, 3, *size, device=device)
    backbones, results, maps = {}, {}, None
    for name in AGGREGATIONS:
        variant = cfg.clone()
        variant.defrost()
        variant.MODEL.FPN.AGGREGATION = name
        backbone = build_backbone(variant)
        flops = count_forward(_Detector(backbone).eval(), make_batch(size)).flops["neck"]
        backbones[name] = backbone.to(device).train()
        if maps is None:
            maps = {k: x.detach() for k, x in backbone.bottom_up(image).items()}
        neck = _Neck(backbone, maps)
        parameters = count_parameters(backbone)[1] - count_parameters(backbone.bottom_up)[1]
        weights = [*backbone.parameters(), *maps.values()]
        kept = bytes_kept_for_backward(neck, without=weights)
        results[name] = NeckResult(parameters, flops, kept, _peak(neck, device))
    for i in range(1 + rounds):
        for name, backbone in backbones.items():
            neck = _Neck(backbone, maps)
            forward, both = _time_passes(neck, device)
            _, whole = _time_passes(lambda net=backbone: list(net(image).values()), device)
            if i > 0:
                for key, value in (("forward", forward), ("both", both), ("backbone", whole)):
                    results[name].seconds[key].append(value)
    return results


class _Detector(nn.Module):
    """A backbone with the inputs of a detector, for :func:`count_forward`."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs):
        return self.backbone(torch.stack([x["image"].float() for x in inputs]))


class _Neck:
    """Callable without arguments that computes the pyramid from given bottom-up maps."""

    def __init__(self, backbone, maps):
        self.backbone = backbone
        self.maps = {name: x.clone().requires_grad_() for name, x in maps.items()}

    def __call__(self):
        bottom_up = self.backbone.bottom_up
        self.backbone.bottom_up = _Given(self.maps)
        try:
            return list(self.backbone(None).values())
        finally:
            self.backbone.bottom_up = bottom_up


class _Given(nn.Module):
    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, x):
        return self.maps


def _time_passes(forward, device):
    """Seconds of the forward pass, and of forward and backward pass together."""
    begin = elapsed_seconds(device)
    levels = forward()
    middle = elapsed_seconds(device)
    torch.autograd.backward(levels, [torch.ones_like(x) for x in levels])
    return middle - begin, elapsed_seconds(device) - begin


def _peak(neck, device):
    if not device.startswith("cuda"):
        return None
    _time_passes(neck, device)
    torch.cuda.reset_peak_memory_stats(device)
    base = torch.cuda.memory_allocated(device)
    _time_passes(neck, device)
    return torch.cuda.max_memory_allocated(device) - base


def _format(results):
    """A row for each aggregation, with the ratios to the sum."""
    has_peak = results[_REFERENCE].peak is not None
    columns = ["neck M", "GFLOPs", "forward s", "ratio", "both s", "ratio", "backbone s", "ratio"]
    columns += ["kept MiB", "ratio", *(["peak MiB", "ratio"] if has_peak else [])]
    rows = []
    reference = results[_REFERENCE]
    for name, result in results.items():
        cells = [name, f"{result.parameters / 1e6:.2f}", f"{result.flops / 1e9:.1f}"]
        for key, values in result.seconds.items():
            least = min(values)
            cells += [f"{least:.3f}", f"{least / min(reference.seconds[key]):.2f}"]
        cells += [f"{result.kept / 2**20:,.0f}", f"{result.kept / reference.kept:.2f}"]
        if has_peak:
            cells += [f"{result.peak / 2**20:,.0f}", f"{result.peak / reference.peak:.2f}"]
        rows.append(cells)
    return f"{markdown_table(['aggregation', *columns], rows)}\n\n{_LEGEND}"


_LEGEND = """\
Ratios are to the sum. Parameters, operations (multiply-adds), times of the forward pass and of
**both** passes, and activations **kept** for the backward pass are those of the neck alone;
**backbone** is both passes of the bottom-up network and the neck."""

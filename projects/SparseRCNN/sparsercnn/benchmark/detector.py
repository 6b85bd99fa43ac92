"""Inference and training step of any config: time by parts, memory, operators; and of peers."""

import shlex
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image

from ..analysis import calm_frozen_norms, input_size, make_batch
from ..config_files import find_config
from ..data import SparseRCNNDatasetMapper
from ..engine.arguments import add_opts_argument
from ..engine.devices import check_devices
from ..engine.setup import load_config
from ..errors import ConfigError
from ..files import write_json
from . import common
from .detector_tables import format_report
from .passes import (
    InferencePass,
    TrainingPass,
    build_for_inference,
    build_for_training,
    measure_passes,
)
from .peers import PEERS
from .runtimes import RUNTIMES, RuntimePass, require_runtime

__all__ = ["SHORT", "Candidate", "add_arguments", "find_candidates", "measure", "run"]

SHORT = True

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PHOTO_SIDE = 480  # shorter side in pixels of the file that is loaded, as of most of COCO's


@dataclass
class Candidate:
    """A model that is measured."""

    name: str
    config: str  # its file; "" for a peer
    variant: str  # name of a variant of the config; "" for the config itself
    cfg: CfgNode  # of a peer: that of the first config, whose solver trains it
    peer: type | None = None
    runtime: str = ""  # of RUNTIMES, which then runs the exported model; "": PyTorch


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    default = ["quickstart/sparsercnn"]
    parser.add_argument(
        "configs",
        nargs="*",
        default=default,
        metavar="CONFIG",
        help="YAML files, or names of some in configs/ (%(default)s)",
    )
    common.add_size_argument(parser)
    parser.add_argument("--images", type=int, default=1, help="images per batch (%(default)s)")
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        default="float32",
        help="sets TEST.DTYPE and SOLVER.AMP, which --opts and --variant may change (%(default)s)",
    )
    parser.add_argument(
        "--mode", choices=("inference", "training", "both"), default="both", help="(%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (%(default)s)")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        dest="variants",
        metavar="'NAME: KEY VALUE ...'",
        help="also measure each config with these keys; may be repeated",
    )
    parser.add_argument(
        "--runtime",
        nargs="+",
        choices=RUNTIMES,
        default=[],
        dest="runtimes",
        help="also measure inference of each exported config; end the list with an option",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="also measure torchvision's Faster R-CNN and, if transformers is installed, its DETR",
    )
    parser.add_argument("--output-json", type=Path, metavar="FILE", help="write all figures to it")
    common.add_device_argument(parser, "device to measure on")
    add_opts_argument(parser, "overrides of all configs")


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns Markdown tables."""
    for option, value in (("rounds", args.rounds), ("images", args.images)):
        if value < 1:
            raise ConfigError(f"--{option} is {value}; it must be 1 or more.")
    if args.output_json and not args.output_json.absolute().parent.is_dir():
        raise ConfigError(f"--output-json {args.output_json}: its folder does not exist; make it.")
    report = measure(args)
    if args.output_json:
        write_json(args.output_json, report, indent=1)
    return format_report(report)


def measure(args):
    """Measure all models that the command line asks for.

    Args:
        args (argparse.Namespace): of :func:`add_arguments`.

    Returns:
        dict: "settings"; "notes" (list[str]); "loading", seconds by config; and "results", a list
        of dicts with "model", "config", "variant", "mode" and the fields of :class:`PassResult`.
    """
    candidates, notes = find_candidates(args)
    size = tuple(args.size or input_size(candidates[0].cfg))
    batch = make_batch(size, args.images, args.device)
    modes = ("inference", "training") if args.mode == "both" else (args.mode,)
    results = []
    for mode in modes:
        measured = [x for x in candidates if mode == "inference" or not x.runtime]
        makers = {x.name: partial(_prepare, x, mode, batch, args.dtype) for x in measured}
        for candidate, result in zip(
            measured, measure_passes(makers, args.rounds).values(), strict=True
        ):
            identity = {"model": candidate.name, "config": candidate.config}
            identity |= {"variant": candidate.variant, "mode": mode}
            results.append(identity | asdict(result))
    settings = {"size": size, "images": args.images, "dtype": args.dtype, "rounds": args.rounds}
    settings |= {"device": args.device, "place": common.describe_place(args.device)}
    loading = {
        x.config: min(time_loading(x.cfg, size, args.rounds))
        for x in candidates
        if x.config and not x.variant
    }
    return {"settings": settings, "notes": notes, "loading": loading, "results": results}


def find_candidates(args):
    """The models that the command line asks for.

    Args:
        args (argparse.Namespace): of :func:`add_arguments`.

    Returns:
        tuple[list[Candidate], list[str]]: in the order of the tables; and notes on what is missing.

    Raises:
        ConfigError: a config or a variant that cannot be used, or is given twice.
    """
    variants = {"": []} | _parse_variants(args.variants)
    if len(set(args.configs)) < len(args.configs):
        raise ConfigError("A CONFIG is given twice; compare variants of one config by --variant.")
    runtimes, notes = _installed_runtimes(args.runtimes)
    stem_of = {path: Path(find_config(path)).stem for path in args.configs}
    stems = Counter(stem_of.values())
    candidates = []
    for path in args.configs:
        stem = stem_of[path]
        name = stem if stems[stem] == 1 else path
        for variant, opts in variants.items():
            cfg = _configure(path, [*args.opts, *opts], args)
            full_name = f"{name}, {variant}" if variant else name
            candidates.append(Candidate(full_name, path, variant, cfg))
        for runtime in runtimes:
            cfg = _configure(path, args.opts, args)
            candidates.append(Candidate(f"{name}, {runtime}", path, runtime, cfg, runtime=runtime))
    for name, peer in PEERS.items() if args.peers else ():
        try:
            peer.require()
        except ImportError as error:
            notes.append(f"{name} is left out: {error}.")
        else:
            candidates.append(Candidate(name, "", "", candidates[0].cfg, peer))
    return candidates, notes


def _installed_runtimes(names):
    """tuple[list[str], list[str]]: those that are installed, and notes on the others."""
    installed, notes = [], []
    for name in names:
        try:
            require_runtime(name)
        except ImportError as error:
            notes.append(f"{name} is left out: {error}.")
        else:
            installed.append(name)
    return installed, notes


def _parse_variants(texts):
    """dict[str, list[str]]: keys and values by name."""
    variants = {}
    for text in texts:
        name, colon, opts = text.partition(":")
        name = name.strip()
        if not (name and colon):
            raise ConfigError(f"--variant '{text}' must have the form 'NAME: KEY VALUE ...'.")
        if name in variants:
            raise ConfigError(f"--variant {name} is given twice; names must differ.")
        variants[name] = shlex.split(opts)
    return variants


def _configure(path, opts, args):
    is_half = args.dtype != "float32"
    amp = ["SOLVER.AMP.DTYPE", args.dtype] if is_half else []
    dtype = ["TEST.DTYPE", args.dtype, "SOLVER.AMP.ENABLED", str(is_half), *amp]
    cfg = load_config(path, [*dtype, *opts], register=False)
    cfg.defrost()
    cfg.MODEL.DEVICE = args.device
    cfg.OUTPUT_DIR = ""
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # Scores of random weights are low; as it is, nothing would be detected and no mask computed.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.freeze()
    check_devices(cfg)
    return cfg


def _prepare(candidate, mode, batch, dtype):
    """The pass of a candidate."""
    cfg, is_inference = candidate.cfg, mode == "inference"
    if candidate.runtime:
        return RuntimePass(candidate.runtime, cfg, batch)
    if candidate.peer is not None:
        torch.manual_seed(0)
        size = tuple(batch[0]["image"].shape[-2:])
        model = calm_frozen_norms(candidate.peer(size)).to(cfg.MODEL.DEVICE)
        model.train(not is_inference)
    else:
        model = build_for_inference(cfg) if is_inference else build_for_training(cfg)
    if is_inference:
        is_peer = candidate.peer is not None
        return InferencePass(model, batch, _DTYPES[dtype] if is_peer else torch.float32)
    return TrainingPass(cfg, model, batch)


def time_loading(cfg, size, rounds):
    """Processor seconds (list[float]) of reading a JPEG and resizing it as in evaluation.

    Args:
        cfg (CfgNode): the whole config; INPUT.FORMAT is read.
        size (tuple[int, int]): height and width to which it is resized.
        rounds (int): number of times.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min(size), max(size)
    mapper = SparseRCNNDatasetMapper(cfg, is_train=False)
    height, width = (round(_PHOTO_SIDE * x / min(size)) for x in size)
    # Smooth, as a photograph is: the time of decoding depends on the details.
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "photo.jpg")
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
        record = {"file_name": path, "height": height, "width": width}
        function = {"loading": partial(mapper, record)}
        timed = common.time_in_turn(function, rounds, "cpu", clock=common.processor_seconds)
    return timed["loading"]

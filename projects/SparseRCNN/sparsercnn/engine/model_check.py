"""Whether a model can be built and fits into memory, found out in a moment and without memory."""

import os
import traceback
from pathlib import Path

import torch
from detectron2.modeling import build_model

from ..errors import ConfigError
from ..modeling.freezing import freeze

__all__ = ["check_model"]

_BYTES = 4  # of a float32


def check_model(cfg, training=False, num_processes=1, runs_here=True):
    """Raise ConfigError if the model cannot be built, not be frozen as MODEL.FREEZE says, or is too
    large for the device.

    It is built on torch's device "meta". A model that needs a real device passes. What is counted
    is a lower bound: what is refused could not have run.

    Args:
        cfg (CfgNode): the whole config.
        training (bool): count gradients, the optimizer's moments and the images of a batch.
        num_processes (int): that share a batch.
        runs_here (bool): False: on another machine, whose memory is unknown.
    """
    on_meta = cfg.clone()
    on_meta.defrost()
    on_meta.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            model = build_model(on_meta)
    except NotImplementedError:
        return
    except ConfigError:
        raise
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if "meta" in str(error):
            return
        # An assertion without a message is at least shown itself.
        problem = str(error) or traceback.extract_tb(error.__traceback__)[-1].line
        raise ConfigError(f"The model cannot be built: {problem}") from error
    if training:
        freeze(model, cfg.MODEL.FREEZE)
    if runs_here:
        _check_memory(cfg, model, training, num_processes)


def _check_memory(cfg, model, training, num_processes):
    weights = sum(x.numel() for x in model.parameters())
    name = f"{weights / 1e6:,.0f} M parameters"
    parts = {name: _BYTES * weights}
    if training:
        trained = sum(x.numel() for x in model.parameters() if x.requires_grad)
        parts[name] += _BYTES * trained * (1 + _num_moments(cfg.SOLVER))  # 1: the gradients
        parts |= _batch(cfg, -(-cfg.SOLVER.IMS_PER_BATCH // num_processes))
    needed, available = sum(parts.values()), _memory(cfg.MODEL.DEVICE)
    if needed > available:
        largest = max(parts, key=parts.get)
        raise ConfigError(
            f"The model needs at least {needed / 1e9:,.0f} GB, most of it for {largest}, and "
            f"{cfg.MODEL.DEVICE} has {available / 1e9:,.0f} GB. Make it smaller."
        )


def _num_moments(solver):
    """Of a weight, that the optimizer holds."""
    if solver.OPTIMIZER.upper() == "SGD":
        return int(solver.MOMENTUM > 0)
    return 2


def _batch(cfg, num_images):
    """Bytes of what a training step holds at the least, by name."""
    side, channels = min(cfg.INPUT.MIN_SIZE_TRAIN), len(cfg.MODEL.PIXEL_MEAN)
    parts = {}
    # Cropping and images of other proportions, which MAX_SIZE_TRAIN shrinks, are left alone.
    if side <= cfg.INPUT.MAX_SIZE_TRAIN and not cfg.INPUT.CROP.ENABLED:
        parts[f"{num_images} images of SOLVER.IMS_PER_BATCH"] = (
            _BYTES * num_images * channels * side**2
        )
    sparse = cfg.MODEL.SparseRCNN
    if cfg.MODEL.META_ARCHITECTURE == "SparseRCNN":
        of_roi = sparse.HIDDEN_DIM * cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION**2
        num_rois = num_images * sparse.NUM_PROPOSALS
        # Half precision has two bytes.
        parts[f"the features of {num_rois:,} proposals"] = 2 * num_rois * of_roi
    return parts


def _memory(device):
    """Bytes of a device's memory; infinite if it cannot be known."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu":
        return float("inf")
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    # Of the container, by the second and the first version of Linux's control groups.
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        path = Path("/sys/fs/cgroup", path)
        text = path.read_text().strip() if path.is_file() else ""
        limits += [int(text)] if text.isdigit() else []
    return min(limits)

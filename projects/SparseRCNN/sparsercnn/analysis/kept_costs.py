"""Costs of models that are measured once and kept in a file."""

import contextlib
import hashlib
import json
import logging
from pathlib import Path

from tqdm import tqdm

from ..files import write_json
from .report import measure_model

__all__ = ["measure_once"]


def measure_once(configs, file, measure=True):
    """What models cost; those of an earlier call are read from a file.

    Args:
        configs (dict[str, CfgNode]): by name.
        file (Path): JSON, made or extended if it can be.
        measure (bool): build and measure the models that are not known yet.

    Returns:
        dict[str, dict]: by the names of those that are known and can be measured: "trainable"
        parameters, "flops" (multiply-adds of the inference of an image), and that image's
        "height" and "width".
    """
    known = _read(Path(file))
    costs = {}
    for name, cfg in tqdm(configs.items(), "models measured", disable=None):  # None: on a terminal
        key = _key(cfg)
        if key not in known and measure:
            try:
                cost = measure_model(cfg)
            except Exception as error:  # of somebody's model; the others are measured
                logging.getLogger(__name__).warning("%s cannot be measured: %s", name, error)
                continue
            size = dict(zip(("height", "width"), cost.size, strict=True))
            flops = sum(cost.forward.flops.values())
            known[key] = {"trainable": cost.trainable, "flops": flops, **size}
            with contextlib.suppress(OSError):  # a folder that may only be read
                write_json(file, known, indent=1)
        if key in known:
            costs[name] = known[key]
    return costs


def _read(file):
    try:
        known = json.loads(file.read_bytes()) if file.exists() else {}
        if all(isinstance(cost, dict) for cost in known.values()):
            return known
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    logging.getLogger(__name__).warning("%s is damaged; the models are measured anew.", file)
    return {}


def _key(cfg):
    """A name for what parameters and operations depend on."""
    model = cfg.MODEL.clone()
    model.defrost()
    # measure_model ignores these, and weights can lie elsewhere the next time.
    del model["DEVICE"], model["WEIGHTS"]
    what = f"{model.dump()}\n{cfg.INPUT.MIN_SIZE_TEST} {cfg.INPUT.MAX_SIZE_TEST}"
    return hashlib.sha256(what.encode()).hexdigest()

"""What the variants' models cost, measured once and kept in the sweep's folder."""

import contextlib
import hashlib
import json
import logging
from dataclasses import asdict, dataclass

from tqdm import tqdm

from ..analysis import measure_model
from .run_folder import write_json

__all__ = ["VariantCost", "measure_costs"]

_FILE = "model_costs.json"  # in the sweep's folder


@dataclass(frozen=True)
class VariantCost:
    """
    Attributes:
        trainable (int): parameters that are trained.
        flops (int): of the inference of an image, multiply-adds.
        height (int): of that image.
        width (int):
    """

    trainable: int
    flops: int
    height: int
    width: int


def measure_costs(sweep, measure=True):
    """Costs of all variants; those of another report are read from the sweep's folder.

    Args:
        sweep (Sweep):
        measure (bool): build and measure the models that are not known yet.

    Returns:
        dict[str, VariantCost]: by the variant's name; without those that are not known or cannot
        be measured.
    """
    path = sweep.output / _FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    costs = {}
    for variant in tqdm(sweep.variants, "models measured", disable=None):  # None: on a terminal
        cfg = sweep.run(variant, sweep.seeds[0]).load_config()
        key = _key(cfg)
        if key not in known and measure:
            cost = _measure(variant, cfg)
            if cost is None:
                continue
            known[key] = asdict(cost)
            with contextlib.suppress(OSError):  # a folder that may only be read
                write_json(path, known)
        if key in known:
            costs[variant.name] = VariantCost(**known[key])
    return costs


def _measure(variant, cfg):
    try:
        cost = measure_model(cfg)
    except Exception as error:  # a column is missing rather than the report
        logging.getLogger(__name__).warning("%s cannot be measured: %s", variant.name, error)
        return None
    return VariantCost(cost.trainable, sum(cost.forward.flops.values()), *cost.size)


def _key(cfg):
    """Of what parameters and operations depend on."""
    model = cfg.MODEL.clone()
    model.defrost()
    # measure_model ignores these, and weights can lie elsewhere the next time.
    del model["DEVICE"], model["WEIGHTS"]
    what = f"{model.dump()}\n{cfg.INPUT.MIN_SIZE_TEST} {cfg.INPUT.MAX_SIZE_TEST}"
    return hashlib.sha256(what.encode()).hexdigest()

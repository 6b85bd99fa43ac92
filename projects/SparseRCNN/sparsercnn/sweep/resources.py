"""What the runs of a sweep may use: processors, GPUs, time, and where."""

import dataclasses
import difflib
import os
from dataclasses import dataclass

import torch

from ..engine.setup import ConfigError

__all__ = [
    "Resources",
    "SweepError",
    "check_resources",
    "did_you_mean",
    "gpu_ids",
    "read_resources",
]

_HOURS = 8760  # of a year


class SweepError(ConfigError):
    """A sweep's YAML file that cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class Resources:
    """What one run gets, and how many run at a time.

    Attributes:
        cluster (str): "local": on this machine; "slurm".
        parallel (int): runs at a time.
        gpus (int): of a run, on each of its nodes; 0: it runs on the CPU.
        nodes (int): of a run.
        cpus (int): of a run, on each node; its processes share them as threads of PyTorch.
        hours (float): after which a run is stopped. SLURM starts it again, where it goes on from
            its last checkpoint; on this machine it has failed, until the sweep is started again.
        memory_gb (float): of SLURM: of a run, on each node; None: what the cluster gives.
        partition (str): of SLURM; None: its default.
        account (str): likewise.
        constraint (str): likewise.
    """

    cluster: str = "local"
    parallel: int = 1
    gpus: int = 0
    nodes: int = 1
    cpus: int = 1
    hours: float = 24.0
    memory_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None

    @property
    def threads(self):
        """int: of PyTorch, for each process of a run."""
        return max(self.cpus // max(self.gpus, 1), 1)


def read_resources(file, content, flags):
    """
    Args:
        file (Path): the sweep's, for messages.
        content (dict): `resources` of the file.
        flags (dict): which replace those of the file, None apart.

    Returns:
        Resources:

    Raises:
        SweepError: an unknown key, or a value that is of the wrong type or out of range.
    """
    if not isinstance(content, dict):
        raise SweepError(f"{file}: resources must be a mapping, not {content!r}.")
    known = [field.name for field in dataclasses.fields(Resources)]
    for key in content:
        if key not in known:
            raise SweepError(f"{file}: resources has no '{key}'.{did_you_mean(key, known)}")
    resources = Resources(**{**content, **{k: v for k, v in flags.items() if v is not None}})
    if resources.cluster not in ("local", "slurm"):
        raise SweepError(f"{file}: cluster is '{resources.cluster}'; it must be local or slurm.")
    for key, least in {"parallel": 1, "gpus": 0, "nodes": 1, "cpus": 1}.items():
        value = getattr(resources, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SweepError(f"{file}: {key} is {value!r}; it must be a whole number from {least}.")
    if not _is_number(resources.hours) or not 0 < resources.hours <= _HOURS:
        raise SweepError(
            f"{file}: hours is {resources.hours!r}; it must be a number up to {_HOURS}, such as "
            "1.5 (YAML reads 24:00:00 as 86400)."
        )
    memory = resources.memory_gb
    if memory is not None and not (_is_number(memory) and memory > 0):
        raise SweepError(f"{file}: memory_gb is {memory!r}; it must be a number.")
    for key in ("partition", "account", "constraint"):
        value = getattr(resources, key)
        if value is not None and not isinstance(value, str):
            raise SweepError(f"{file}: {key} is {value!r}; it must be a text.")
    if resources.cluster == "local" and resources.nodes > 1:
        raise SweepError(f"{file}: nodes is {resources.nodes}; more than one needs cluster slurm.")
    return resources


def did_you_mean(word, known):
    """The end of a message about an unknown name."""
    nearest = difflib.get_close_matches(str(word), known, n=1)
    return f" Did you mean {nearest[0]}?" if nearest else f" There are: {', '.join(known)}."


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_resources(sweep):
    """Raise SweepError if a variant's config does not fit the GPUs that its runs get.

    Args:
        sweep (Sweep):
    """
    resources = sweep.resources
    if resources.gpus == 0:
        return
    num_gpus = resources.gpus * resources.nodes
    for variant in sweep.variants:
        cfg = sweep.run(variant, sweep.seeds[0]).load_config()
        where = f"{sweep.file}, variant '{variant.name}'"
        if not cfg.MODEL.DEVICE.startswith("cuda"):
            raise SweepError(
                f"{where}: gpus is {resources.gpus}, and MODEL.DEVICE is {cfg.MODEL.DEVICE}. For "
                "GPUs: --opts MODEL.DEVICE cuda. For the CPU: --gpus 0."
            )
        # With REFERENCE_WORLD_SIZE it follows the number of GPUs.
        batch = cfg.SOLVER.IMS_PER_BATCH
        if cfg.SOLVER.REFERENCE_WORLD_SIZE == 0 and batch % num_gpus:
            raise SweepError(
                f"{where}: SOLVER.IMS_PER_BATCH {batch} cannot be shared by {num_gpus} GPUs."
            )


def gpu_ids():
    """
    Returns:
        list[str]: the GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = torch.cuda.device_count()
    return visible.split(",")[:found] if visible else [str(i) for i in range(found)]

"""What a sweep is: base config, variants, seeds, metric, resources; and the runs that follow."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine.overrides import as_argument
from ..engine.setup import load_config

__all__ = ["Resources", "Run", "Sweep", "Variant", "folder_name"]


@dataclass
class Resources:
    """What one run gets, and how many run at a time. OmegaConf checks the types."""

    cluster: str = "local"  # this machine; or "slurm"
    parallel: int = 1  # runs at a time
    gpus: int = 0  # of a run, on each of its nodes; 0: it runs on the CPU
    nodes: int = 1  # of a run
    cpus: int = 1  # of a run, on each node; its processes share them as threads of PyTorch
    hours: float = 24.0  # then it is stopped; SLURM starts it again, on this machine it has failed
    # For SLURM alone; None: what the cluster gives by default.
    memory_gb: float | None = None  # of a run, on each node
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None

    def __post_init__(self):
        if self.cluster not in ("local", "slurm"):
            raise ValueError(f"cluster is '{self.cluster}'; it must be local or slurm.")
        for key, least in {"parallel": 1, "gpus": 0, "nodes": 1, "cpus": 1}.items():
            if getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be at least {least}.")
        if not 0 < self.hours <= 8760:  # of a year
            hint = "up to 8760, such as 1.5 (YAML reads 24:00:00 as 86400)"
            raise ValueError(f"hours is {self.hours:g}; it must be a number {hint}.")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise ValueError(f"memory_gb is {self.memory_gb:g}; it must be more than 0.")
        if self.cluster == "local" and self.nodes > 1:
            raise ValueError(f"nodes is {self.nodes}; more than one needs cluster slurm.")

    @property
    def threads(self):
        """int: of PyTorch, for each process of a run."""
        return max(self.cpus // max(self.gpus, 1), 1)


@dataclass(frozen=True, eq=False)
class Variant:
    """One point of a sweep."""

    name: str  # in tables, and as the name of a folder
    overrides: dict  # config key -> value
    levels: dict = field(default_factory=dict)  # axis -> level; empty if the file lists variants


@dataclass(frozen=True)
class Run:
    """One training, of a variant with a seed."""

    variant: Variant
    seed: int
    folder: Path  # its OUTPUT_DIR
    config_file: Path  # of train_net.py
    opts: tuple  # KEY VALUE pairs of its command line, flattened

    @property
    def name(self):
        return f"{self.variant.name}, seed {self.seed}"

    def load_config(self):
        """The whole config of the run (CfgNode), without registering its data sets."""
        return load_config(
            str(self.config_file), list(self.opts), register=False, choose_device=False
        )


@dataclass
class Sweep:
    """A sweep's YAML file: its keys, whose types OmegaConf checks.

    :func:`load_sweep` fills in what is left out, and turns `base` and `output` into paths,
    `variants` into a list of Variant, and `axes` into lists of the names of their levels.
    """

    base: str = ""  # the config that all runs start from
    title: str | None = None  # for reports
    metric: str = "bbox/AP"  # as in metrics.json
    output: str | None = None  # the runs' folders, VARIANT/seed_SEED, lie in it
    seeds: list[int] = field(default_factory=lambda: [0])
    baseline: str | None = None  # the variant that the others are compared to
    overrides: Any = None  # for all runs; dotted or nested, once loaded dotted
    axes: dict[Any, Any] | None = None
    variants: dict[Any, Any] | None = None
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self):
        self.file = None  # the YAML file
        if not self.base:
            raise ValueError("'base' is missing, the config that the runs start from.")
        if "" in (self.metric, self.title, self.output):
            raise ValueError("metric, title or output is empty; give it a text, or leave it out.")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be different whole numbers from 0, such as [0, 1, 2].")
        if bool(self.axes) == bool(self.variants):
            raise ValueError("give either 'axes', all of whose levels are crossed, or 'variants'.")

    @property
    def names(self):
        """list[str]: of the variants."""
        return [variant.name for variant in self.variants]

    @property
    def runs(self):
        """list[Run]: all variants with the first seed, then with the next, so that half a sweep has
        something of each."""
        return [self.run(v, seed) for seed in self.seeds for v in self.variants]

    def run(self, variant, seed=None):
        """The run of a variant and a seed, by default the first."""
        seed = self.seeds[0] if seed is None else seed
        folder = self.output / folder_name(variant.name) / f"seed_{seed}"
        values = {**self.overrides, **variant.overrides, "SEED": seed, "OUTPUT_DIR": str(folder)}
        opts = [x for key, value in values.items() for x in (key, as_argument(value))]
        return Run(variant, seed, folder, self.base, tuple(opts))


def folder_name(name):
    """A variant's name as that of a folder."""
    return re.sub(r"[^\w.+=,-]+", "_", name)

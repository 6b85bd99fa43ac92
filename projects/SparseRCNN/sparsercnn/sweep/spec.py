"""What a sweep is: base config, variants, seeds, metric, resources; and the runs that follow."""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..engine.setup import load_config
from .resources import Resources, SweepError

__all__ = ["Resources", "Run", "Sweep", "SweepError", "Variant", "as_argument", "folder_name"]


@dataclass(frozen=True, eq=False)
class Variant:
    """One point of a sweep.

    Attributes:
        name (str): in tables, and as the name of a folder.
        overrides (dict): key -> value, of the config.
        levels (dict[str, str]): axis -> name of its level; empty where the file lists variants.
    """

    name: str
    overrides: dict
    levels: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        variant (Variant):
        seed (int):
        folder (Path): its OUTPUT_DIR.
        config_file (Path): of `train_net.py`.
        opts (tuple[str]): KEY VALUE pairs of its command line, flattened.
    """

    variant: Variant
    seed: int
    folder: Path
    config_file: Path
    opts: tuple

    @property
    def name(self):
        return f"{self.variant.name}, seed {self.seed}"

    def load_config(self):
        """
        Returns:
            CfgNode: the whole config of the run, without registering its data sets.
        """
        return load_config(str(self.config_file), list(self.opts), register=False)


@dataclass(frozen=True)
class Sweep:
    """A sweep's YAML file.

    Attributes:
        file (Path): the YAML file.
        title (str): for reports.
        base (Path): the config that all runs start from.
        output (Path): the runs' folders, VARIANT/seed_SEED, lie in it.
        metric (str): as in `metrics.json`: "bbox/AP".
        variants (tuple[Variant]): the first, or `baseline`, is what the others are compared to.
        axes (dict[str, list[str]]): axis -> names of its levels; empty where variants are listed.
        seeds (tuple[int]):
        baseline (str): name of a variant.
        overrides (dict): key -> value, for all runs.
        resources (Resources):
    """

    file: Path
    title: str
    base: Path
    output: Path
    metric: str
    variants: tuple
    axes: dict
    seeds: tuple
    baseline: str
    overrides: dict
    resources: Resources

    @property
    def runs(self):
        """list[Run]: all variants with the first seed, then with the next, so that half a sweep has
        something of each."""
        return [self.run(v, seed) for seed in self.seeds for v in self.variants]

    def run(self, variant, seed):
        """Run: of a variant and a seed."""
        folder = self.output / folder_name(variant.name) / f"seed_{seed}"
        values = {**self.overrides, **variant.overrides, "SEED": seed, "OUTPUT_DIR": str(folder)}
        opts = [x for key, value in values.items() for x in (key, as_argument(value))]
        return Run(variant, seed, folder, self.base, tuple(opts))


def folder_name(name):
    """A variant's name as that of a folder."""
    return re.sub(r"[^\w.+=,-]+", "_", name)


def as_argument(value):
    """The string that a command line needs for a value."""
    if not isinstance(value, str):
        return repr(tuple(value) if isinstance(value, list) else value)
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    return repr(value)  # '8' rather than 8

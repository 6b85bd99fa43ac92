"""Sweeps: one YAML file describes runs of a config that differ in keys and seeds."""

from ..errors import SweepError
from ..extras import require_extra
from .spec import Resources, Run, Sweep, Variant
from .spec_file import load_sweep

require_extra("sweep", "submitit", "pandas", "jinja2", "matplotlib")

__all__ = ["Resources", "Run", "Sweep", "SweepError", "Variant", "load_sweep"]

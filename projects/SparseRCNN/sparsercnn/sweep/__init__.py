"""Sweeps: one YAML file describes runs of a config that differ in keys and seeds."""

from .spec import Resources, Run, Sweep, SweepError, Variant
from .spec_file import load_sweep

__all__ = ["Resources", "Run", "Sweep", "SweepError", "Variant", "load_sweep"]

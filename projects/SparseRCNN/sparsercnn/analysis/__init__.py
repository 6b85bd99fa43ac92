"""Cost of models, and pictures of their assignments and attention."""

from .cost import ForwardCost, count_forward, count_parameters
from .inputs import calm_frozen_norms, input_size, make_batch
from .memory import StepMemory, bytes_kept_for_backward, measure_step
from .report import ModelCost, find_configs, format_costs, measure_model
from .tables import markdown_table

__all__ = [
    "ForwardCost",
    "ModelCost",
    "StepMemory",
    "bytes_kept_for_backward",
    "calm_frozen_norms",
    "count_forward",
    "count_parameters",
    "find_configs",
    "format_costs",
    "input_size",
    "make_batch",
    "markdown_table",
    "measure_model",
    "measure_step",
]

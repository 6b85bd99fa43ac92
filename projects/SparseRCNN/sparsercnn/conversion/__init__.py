"""Conversion of weights between other code bases and this one."""

from .files import LAYOUTS, convert_file, read_weights
from .rules import ConversionError, Drop, Rule, convert

__all__ = ["LAYOUTS", "ConversionError", "Drop", "Rule", "convert", "convert_file", "read_weights"]

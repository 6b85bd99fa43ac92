"""Benchmarks of speed and memory, one module for each comparison.

A module has a docstring, whose first line is its help text; ``SHORT``, whether it runs by default;
``add_arguments(parser)``; and ``run(args)``, which returns a Markdown table.
"""

"""Speed and memory, one module for each comparison.

A module has a docstring, whose first line is its help; ``SHORT``, whether it is run when nothing
is asked for; ``add_arguments(parser)``; and ``run(args)``, which gives a Markdown table.
"""

"""Folders that ``start`` has written, which are no data even where they lie inside of it."""

import os

from ..data.files import read_bytes

__all__ = ["CONFIG_FILE", "MADE_BY", "without_runs"]

CONFIG_FILE = "config.yaml"
MADE_BY = "Made by `sparsercnn start`"
"""How the first line of each of these files begins, as a comment."""


def without_runs(files, root):
    """Leave out the files of earlier runs.

    If `root` itself is that of a run, it has both: of these are left out ``run``, and in ``data``
    the annotations that the run's config names.

    Args:
        files (list[Path]): below `root`.
        root (Path): the folder of the data.

    Returns:
        tuple[list[Path], list[Path]]: the files that are left, and the folders of the runs.

    Raises:
        DataError: a file with the name of a config cannot be read.
    """
    configs = [x for x in files if x.name == CONFIG_FILE and _is_made(x)]
    parts = set()
    for config in configs:
        parts |= {config.parent} if config.parent != root else _parts_in_data(config, files)
    left = [x for x in files if parts.isdisjoint((x, *x.parents))] if parts else files
    return left, [x.parent for x in configs]


def _is_made(path):
    return read_bytes(path).startswith(f"# {MADE_BY}".encode())


def _parts_in_data(config, files):
    text = config.read_text(encoding="utf-8")
    converted = (x for x in files if x.parent == config.parent / "data")
    named = {x for x in converted if f"{os.sep}data{os.sep}{x.name}@" in text}
    return {config.parent / "run"} | named

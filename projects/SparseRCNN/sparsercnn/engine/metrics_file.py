"""`metrics.json`, of which a training writes a line at a time."""

import contextlib
import json
import os
from pathlib import Path

from ..files import write_atomically

__all__ = ["drop_rows", "read_metrics"]


def read_metrics(folder):
    """Rows of `metrics.json`, as far as it is written.

    A run that was killed has done some iterations twice, of which the later rows count; a line
    that it was writing is left out, and so is whatever is no number.

    Args:
        folder (Path): OUTPUT_DIR of a training.

    Returns:
        list[dict]: in the order of their "iteration"; empty if there is no such file.
    """
    rows = {}
    for row in _lines(folder / "metrics.json"):
        row = {key: x for key, x in row.items() if isinstance(x, int | float)}
        # Losses and evaluation of an iteration can be in rows of their own.
        rows.setdefault(row["iteration"], {}).update(row)
    return [rows[iteration] for iteration in sorted(rows)]


def drop_rows(folder, start, goes_on=False):
    """Remove rows that a resumed run will write again, and a line that is not complete.

    Args:
        folder (str): OUTPUT_DIR of a training that is not being written.
        start (int): iteration from which on it is done again.
        goes_on (bool): a run that had ended before that iteration is made longer. The evaluation at
            its end, which is not done again, becomes one of the iteration before.

    Returns:
        int: the last iteration that is left; -1 if there is none.
    """
    path = Path(folder) / "metrics.json"
    if not path.exists():
        return -1
    kept = []
    for row in _lines(path):
        # The end has a row of its own, without what each iteration of a training has.
        if goes_on and row["iteration"] == start and "lr" not in row:
            row["iteration"] = start - 1
        if row["iteration"] < start:
            kept.append(row)
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in kept)
    if text != path.read_text(encoding="utf-8", errors="replace"):
        with write_atomically(os.fspath(path), "w") as file:
            file.write(text)
    return max((row["iteration"] for row in kept), default=-1)


def _lines(path):
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("iteration"), int):
                yield row

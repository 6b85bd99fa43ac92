"""Reading `metrics.json`, which detectron2 writes during a training."""

import contextlib
import json

__all__ = ["read_metrics"]


def read_metrics(folder):
    """Rows of `metrics.json`, as far as it is written.

    A run that was killed has done some iterations twice, of which the later rows count; a line
    that it was writing is left out, and so is whatever is no number.

    Args:
        folder (Path): OUTPUT_DIR of a training.

    Returns:
        list[dict]: in the order of their "iteration"; empty if there is no such file.
    """
    path = folder / "metrics.json"
    rows = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("iteration"), int):
                row = {key: x for key, x in row.items() if isinstance(x, int | float)}
                # Losses and evaluation of an iteration can be in rows of their own.
                rows.setdefault(row["iteration"], {}).update(row)
    return [rows[iteration] for iteration in sorted(rows)]

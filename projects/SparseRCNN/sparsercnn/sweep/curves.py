"""The metric and the losses over the iterations, as pictures."""

import math
import re
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .plots import BASELINE_COLOUR, COLOURS, to_picture

__all__ = ["Curve", "loss_names", "loss_curves", "mean_curve", "metric_curves", "shown_by_axis"]

_PANEL = (4.2, 3.0)  # inches
_LOG_RANGE = 5  # curves that reach from one value to so many times that get a logarithmic axis
_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """A quantity over the iterations, of runs that differ in their seed.

    Attributes:
        iterations (ndarray): (T,), those that all runs have.
        mean (ndarray): (T,), over the runs.
        low (ndarray): (T,), the least of the runs.
        high (ndarray): (T,), the largest.
    """

    iterations: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class _Panel:
    """What is drawn into one pair of axes: lines of (label, runs, colour, style)."""

    title: str
    lines: list


def mean_curve(runs, key, width=1):
    """
    Args:
        runs (sequence[RunResult]):
        key (str): of `metrics.json`.
        width (int): odd; each run is averaged over so many neighbouring points, fewer at the ends.

    Returns:
        Curve: None if there is no iteration at which all runs have the quantity.
    """
    series = [
        {r["iteration"]: r[key] for r in run.rows if key in r and math.isfinite(r[key])}
        for run in runs
    ]
    iterations = sorted(set.intersection(*map(set, series))) if series else []
    if not iterations:
        return None
    values = np.array([[one[i] for i in iterations] for one in series])
    values = np.array([_running_mean(row, width) for row in values])
    return Curve(np.array(iterations), values.mean(0), values.min(0), values.max(0))


def _running_mean(values, width):
    kernel = np.ones(width)
    ends = len(values) + width // 2
    inside = slice(width // 2, ends)
    total = np.convolve(values, kernel)[inside]
    return total / np.convolve(np.ones(len(values)), kernel)[inside]


def loss_names(results):
    """The losses that the finished runs have: their sum first; of those that stages have, the last
    stage's alone.

    Args:
        results (SweepResults):

    Returns:
        list[str]:
    """
    keys = {key for r in results.finished for row in r.rows for key in row}
    losses = {key for key in keys if re.fullmatch(r"(?!total)\w*loss\w*", key)}
    stages = {key for key in losses if re.sub(r"_\d+$", "", key) in losses - {key}}
    return [name for name in ("total_loss",) if name in keys] + sorted(losses - stages)


def shown_by_axis(results):
    """
    Args:
        results (SweepResults):

    Returns:
        bool: a line is a level of an axis, because there are more variants than colours.
    """
    others = {r.run.variant.name for r in results.finished} - {results.sweep.baseline}
    return len(others) > len(COLOURS) and bool(results.sweep.axes)


def metric_curves(results):
    """
    Args:
        results (SweepResults):

    Returns:
        Picture: None if the metric was not evaluated during training.
    """
    metric = results.sweep.metric
    if all(sum(metric in row for row in r.rows) < 2 for r in results.finished):
        return None
    panels = _panels(results)
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    scale = 1.7 if len(panels) == 1 else 1.2
    figure = Figure((_PANEL[0] * scale * columns, _PANEL[1] * scale * rows), layout="constrained")
    first = None
    for i, panel in enumerate(panels):
        axes = first = figure.add_subplot(rows, columns, i + 1, sharex=first, sharey=first)
        _draw(axes, panel, metric, 1, marker="o")
        axes.set_ylabel(metric)
        axes.legend(fontsize="small", frameon=False)
    return to_picture(figure, "metric.png", f"{metric} over the iterations")


def loss_curves(results):
    """The losses of :func:`loss_names`.

    Args:
        results (SweepResults):

    Returns:
        tuple[Picture, int]: None if there are no losses; and over how many logged points the
        curves are averaged.
    """
    names, panels = loss_names(results), _panels(results)
    if not names:
        return None, 1
    points = max(sum("total_loss" in row for row in r.rows) for r in results.finished)
    width = max(points // 15 // 2 * 2 + 1, 3)
    if len(panels) == 1:
        columns = math.ceil(math.sqrt(len(names)))
        grid = [(name, panels[0]) for name in names]
    else:
        columns = len(panels)
        grid = [(name, panel) for name in names for panel in panels]
    rows = math.ceil(len(grid) / columns)
    figure = Figure((_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
    axes = None
    for i, (name, panel) in enumerate(grid):
        # Panels beside each other that show the same loss have the same scale.
        same = axes if len(panels) > 1 and i % columns else None
        axes = figure.add_subplot(rows, columns, i + 1, sharey=same)
        _draw(axes, panel, name, width)
        axes.set_title(f"{name}, {panel.title}" if panel.title else name, fontsize="medium")
        if i < (columns if len(panels) > 1 else 1):
            axes.legend(fontsize="x-small", frameon=False)
    return to_picture(figure, "losses.png", "losses over the iterations"), width


def _panels(results):
    """One of all variants, if they can be told apart; else one for each axis, with its levels; else
    some variants each, beside the baseline."""
    sweep = results.sweep
    runs = {v.name: list(results.of_variant(v.name).values()) for v in sweep.variants}
    runs = {name: found for name, found in runs.items() if found}
    others = [name for name in runs if name != sweep.baseline]
    baseline = [name for name in (sweep.baseline,) if name in runs]
    if shown_by_axis(results):
        return [_axis_panel(results, axis) for axis in sweep.axes if len(sweep.axes[axis]) > 1]
    num_panels = max(math.ceil(len(others) / len(COLOURS)), 1)
    size = max(math.ceil(len(others) / num_panels), 1)
    panels = []
    for i in range(num_panels):
        names = baseline + others[i * size : (i + 1) * size]
        lines = [(name, runs[name], *_style(j, bool(baseline))) for j, name in enumerate(names)]
        panels.append(_Panel("" if num_panels == 1 else f"part {i + 1}", lines))
    return panels


def _axis_panel(results, axis):
    lines = []
    for i, level in enumerate(results.sweep.axes[axis]):
        runs = [r for r in results.finished if r.run.variant.levels[axis] == level]
        if runs:
            lines.append((level, runs, *_style(i, True)))
    return _Panel(axis, lines)


def _style(i, has_baseline):
    """Colour and line style of the i-th line."""
    if has_baseline and i == 0:
        return BASELINE_COLOUR, "-"
    i -= has_baseline
    return COLOURS[i % len(COLOURS)], _STYLES[i // len(COLOURS) % len(_STYLES)]


def _draw(axes, panel, key, width, marker=None):
    curves = [(label, mean_curve(runs, key, width), *s) for label, runs, *s in panel.lines]
    curves = [c for c in curves if c[1] is not None]
    for label, curve, colour, style in curves:
        axes.fill_between(
            curve.iterations, curve.low, curve.high, color=colour, alpha=0.13, linewidth=0
        )
        axes.plot(
            curve.iterations,
            curve.mean,
            style,
            color=colour,
            label=label,
            marker=marker,
            markersize=4,
        )
    low = min((c.low.min() for _, c, *_ in curves), default=0)
    high = max((c.high.max() for _, c, *_ in curves), default=0)
    if marker is None and low > 0 and high > _LOG_RANGE * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("iteration")
    axes.grid(color="#e9e9e9", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if panel.title:
        axes.set_title(panel.title, fontsize="medium")

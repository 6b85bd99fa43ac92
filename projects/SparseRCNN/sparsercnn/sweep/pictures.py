"""The pictures of a report: runs as dots, effects with their intervals, and curves."""

import math
import re

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..analysis.charts import BLACK, COLOURS, STYLES, plain_axes, to_picture
from ..analysis.document import Section

__all__ = ["curve_sections", "dot_plot", "effects_plot", "loss_names", "mean_curve"]

_LOG_RANGE = 5  # a loss that becomes more times smaller gets a logarithmic axis


def dot_plot(results):
    """The metric of every finished run, a row for each variant, with the variant's mean."""
    metric, baseline = results.sweep.metric, results.sweep.baseline
    table = results.table(metric)
    figure, axes = _rows(table.columns)
    axes.axvline(table[baseline].mean(), color="#888888", linestyle="--", linewidth=1)
    for row, name in enumerate(table):
        values = table[name].dropna()
        colour = BLACK if name == baseline else COLOURS[0]
        # Seeds are a little apart, so that dots do not hide each other.
        heights = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(
            values, row + heights[: len(values)], "o", color=colour, alpha=0.65, markeredgewidth=0
        )
        if len(values) > 1:
            axes.vlines(values.mean(), row - 0.36, row + 0.36, colour, linewidth=2.2)
    axes.set_xlabel(f"{metric}: each dot a run, bars the means, dashed the baseline's")
    return to_picture(figure, "runs.png", f"{metric} of each run by variant")


def effects_plot(sweep, effects):
    """Main effects, see :func:`~.results.main_effects`, with their 95 % intervals."""
    figure, axes = _rows(
        [f"{axis}: {level} against {first}" for axis, level, first in effects.index]
    )
    axes.axvline(0, color="#888888", linestyle="--", linewidth=1)
    for row, e in enumerate(effects.itertuples()):
        colour = COLOURS[list(sweep.axes).index(e.Index[0]) % len(COLOURS)]
        face = colour if e.exceeds_noise == "yes" else "white"
        axes.hlines(row, e.low_95, e.high_95, colour, linewidth=2)
        axes.plot(e.difference, row, "o", color=colour, markersize=7, markerfacecolor=face)
    axes.set_xlabel(f"difference of {sweep.metric}, 95 % interval; filled: exceeds the noise")
    return to_picture(figure, "effects.png", "Main effects with their confidence intervals")


def _rows(labels):
    """A figure with a row for each label, from top to bottom."""
    figure = Figure((9.5, 0.32 * len(labels) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def curve_sections(results):
    """Yield the metric and the losses over the iterations."""
    metric, history = results.sweep.metric, results.history
    panels = _panels(results)
    points = history.groupby(["variant", "seed"]).count().max()
    whose = "all runs of a level" if set(panels) <= set(results.sweep.axes) else "seeds"
    note = f"Finished runs. A line is the mean over {whose}, a band from the least to the largest."
    section = Section("The metric during training")
    if points[metric] < 2:
        section.text = f"{metric} was evaluated at the end only."
    else:
        figure = _draw(history, panels, [metric], marker="o")
        section.pictures = [to_picture(figure, "metric.png", f"{metric} over the iterations")]
        section.notes = [note]
    yield section
    losses = loss_names(history)
    if losses:
        width = int(max(points[losses[0]] // 15 // 2 * 2 + 1, 3))
        notes = [
            f"{note} Axes are logarithmic where a loss changes much.",
            f"Losses are smoothed: each run by a running mean over {width} logged points, of which "
            "each is detectron2's median over 20 iterations.",
            "Losses of other matchers, weights or numbers of stages do not compare.",
        ]
        figure = _draw(history, panels, losses, width)
        picture = to_picture(figure, "losses.png", "losses over the iterations")
        yield Section("Losses", notes=notes, pictures=[picture])


def loss_names(history):
    """The losses (list[str]): their sum first; of those of stages, the last stage's alone."""
    losses = {key for key in history if re.fullmatch(r"(?!total)\w*loss\w*", key)}
    stages = {key for key in losses if re.sub(r"_\d+$", "", key) in losses - {key}}
    return [name for name in ("total_loss",) if name in history] + sorted(losses - stages)


def _panels(results):
    """Title -> the black line's name, and the name of the line of each row of the history.

    Up to seven variants beside the baseline are in one panel: {"": ("plain", ["plain", "DLA"])}. Of
    more, a grid has a panel for each axis, with its levels: {"matcher": ("Hungarian", ["Hungarian",
    "DLA"]), "NUM_HEADS": ...}; others are split, each part with the baseline: {"part 1": ...}.
    """
    sweep, variant = results.sweep, results.history["variant"]
    others = [name for name in sweep.names if name in set(variant) and name != sweep.baseline]
    if len(others) > len(COLOURS) and sweep.axes:
        levels = {axis: {v.name: v.levels[axis] for v in sweep.variants} for axis in sweep.axes}
        split = {axis: names for axis, names in sweep.axes.items() if len(names) > 1}
        return {axis: (names[0], variant.map(levels[axis])) for axis, names in split.items()}
    count = max(math.ceil(len(others) / len(COLOURS)), 1)
    parts = [{sweep.baseline, *names} for names in np.array_split(others, count)]
    titles = [f"part {i + 1}" for i in range(count)] if count > 1 else [""]
    lines = [(sweep.baseline, variant.where(variant.isin(part))) for part in parts]
    return dict(zip(titles, lines, strict=True))


def _draw(history, panels, names, width=1, **style):
    """A figure of quantities: a row of all panels for each; one of either makes a square."""
    grid = [(name, title) for name in names for title in panels]
    square = len(names) == 1 or len(panels) == 1
    columns = math.ceil(math.sqrt(len(grid))) if square else len(panels)
    rows = math.ceil(len(grid) / columns)
    scale = 1.7 if len(grid) == 1 else 1
    figure = Figure((4.2 * scale * columns, 3.0 * scale * rows), layout="constrained")
    axes = None
    for i, (name, title) in enumerate(grid):
        # Panels that show the same quantity have the same scale.
        same = axes if i % len(panels) else None
        axes = figure.add_subplot(rows, columns, i + 1, sharey=same)
        axes.set_prop_cycle(STYLES)
        black, lines = panels[title]
        for label, part in history.groupby(lines, sort=False):
            curve = mean_curve(part, name, width)
            fixed = {"color": BLACK, "linestyle": "-"} if label == black else {}
            if len(curve) == 1:  # a line would not be seen
                fixed["marker"] = "o"
            (line,) = axes.plot(curve["mean"], label=label, markersize=4, **{**style, **fixed})
            band = (curve.index, curve["min"], curve["max"])
            axes.fill_between(*band, color=line.get_color(), alpha=0.13, linewidth=0)
        if "loss" in name and 0 < _LOG_RANGE * axes.dataLim.y0 < axes.dataLim.y1:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{name}, {title}" if title else name, fontsize="medium")
        plain_axes(axes, xlabel="iteration")
        if i < len(panels):
            axes.legend(fontsize="x-small", frameon=False)
    return figure


def mean_curve(history, key, width=1):
    """Mean, min and max (DataFrame) of a quantity over runs, at the iterations that all runs have.

    Each run is averaged over `width` (odd) neighbouring points, and fewer at the ends.
    """
    table = history.pivot(index="iteration", columns=["variant", "seed"], values=key)
    table = table.replace([math.inf, -math.inf], math.nan).dropna()
    table = table.rolling(width, min_periods=1, center=True).mean()
    return pd.DataFrame({name: table.agg(name, axis=1) for name in ("mean", "min", "max")})

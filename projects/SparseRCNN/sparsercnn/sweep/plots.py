"""Pictures of a sweep's results: every run as a dot, and differences with their intervals."""

import io
import statistics

from matplotlib.figure import Figure

from .document import Picture

__all__ = ["BASELINE_COLOUR", "COLOURS", "dot_plot", "effects_plot", "to_picture"]

# Okabe and Ito's, which colour-blind readers can tell apart, without their yellow, which is pale on
# white; black is the baseline's.
BASELINE_COLOUR = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")

_WIDTH = 9.5  # inches
_ROW = 0.32


def dot_plot(results):
    """The metric of every finished run, a row for each variant, with the variant's mean.

    Args:
        results (SweepResults):

    Returns:
        Picture:
    """
    sweep = results.sweep
    names = [v.name for v in sweep.variants]
    figure = Figure((_WIDTH, _ROW * len(names) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    baseline = list(results.values(sweep.baseline, sweep.metric).values())
    if baseline:
        axes.axvline(statistics.fmean(baseline), color="#888888", linestyle="--", linewidth=1)
    for row, name in enumerate(names):
        values = list(results.values(name, sweep.metric).values())
        colour = BASELINE_COLOUR if name == sweep.baseline else COLOURS[0]
        # Seeds are a little apart, so that dots do not hide each other.
        offsets = [
            0.22 * (2 * i / (len(values) - 1) - 1) if values[1:] else 0.0
            for i in range(len(values))
        ]
        heights = [row + offset for offset in offsets]
        axes.plot(values, heights, "o", color=colour, alpha=0.65, markersize=6, markeredgewidth=0)
        if len(values) > 1:
            mean = statistics.fmean(values)
            axes.plot([mean, mean], [row - 0.36, row + 0.36], color=colour, linewidth=2.2)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(f"{sweep.metric}: each dot a run, bars the means, dashed the baseline's")
    _tidy(axes)
    return to_picture(figure, "runs.png", f"{sweep.metric} of each run by variant")


def effects_plot(results, effects):
    """Main effects with their 95 % intervals.

    Args:
        results (SweepResults):
        effects (list[Comparison]): see :func:`~.significance.main_effects`.

    Returns:
        Picture: None if no two runs can be compared.
    """
    effects = [e for e in effects if e.test.pairs]
    if not effects:
        return None
    figure = Figure((_WIDTH, _ROW * len(effects) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="#888888", linestyle="--", linewidth=1)
    for row, effect in enumerate(effects):
        test = effect.test
        colour = COLOURS[list(results.sweep.axes).index(effect.axis) % len(COLOURS)]
        if test.low is not None:
            axes.plot([test.low, test.high], [row, row], color=colour, linewidth=2)
        filled = {} if effect.verdict == "yes" else {"markerfacecolor": "white"}
        axes.plot(test.difference, row, "o", color=colour, markersize=7, **filled)
    labels = [f"{e.axis}: {e.name} against {e.reference}" for e in effects]
    axes.set_yticks(range(len(effects)), labels)
    axes.set_ylim(len(effects) - 0.4, -0.6)
    axes.set_xlabel(
        f"difference of {results.sweep.metric}, 95 % interval; filled: exceeds the noise"
    )
    _tidy(axes)
    return to_picture(figure, "effects.png", "Main effects with their confidence intervals")


def to_picture(figure, name, description):
    """
    Args:
        figure (matplotlib.figure.Figure):
        name (str): of the file.
        description (str): for those who cannot see it.

    Returns:
        Picture:
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return Picture(name, file.getvalue(), description)


def _tidy(axes):
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)

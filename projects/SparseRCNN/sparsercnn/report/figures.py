"""The figures of a report, each with the numbers that it draws."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..analysis.charts import BLACK, COLOURS, STYLES, plain_axes, to_picture
from .matching import IOU_THRESHOLDS
from .tide import ERRORS

__all__ = [
    "calibration_figure",
    "confusion_figure",
    "costs_figure",
    "movement_figure",
    "places_figure",
    "precision_recall_figure",
    "stages_figure",
]

_RECALLS = np.linspace(0, 1, 101)
_MOST_CLASSES = 7  # lines in one panel
_MOST_NUMBERS = 15  # classes whose confusion is written into the cells
_PANELS = 12  # proposals that are drawn
_MOST_POINTS = 1500  # of a proposal


def precision_recall_figure(truth, curves, precisions):
    """Precision over recall: means over the classes by IoU, and classes at 0.5, the worst of many.

    Args:
        truth (Truth): the objects.
        curves (Curves): of a model.
        precisions (ndarray): (K, A, T), its average precisions.
    """
    known = [k for k in range(truth.num_classes) if not np.isnan(precisions[k, 0, 0])]
    data = {"recall": _RECALLS}
    for t in (0, 2, 4, 5, 6, 8):
        lines = [curves[k, 0, t].at_recalls() for k in known]
        data[f"mean, IoU {IOU_THRESHOLDS[t]:.2f}"] = np.mean(lines, axis=0) if lines else np.nan
    means = list(data)[1:]
    for k in sorted(known, key=lambda k: precisions[k, 0, 0]):
        data[truth.class_names[k]] = curves[k, 0, 0].at_recalls()
    classes = list(data)[1 + len(means) :][:_MOST_CLASSES]
    figure = Figure((10, 4.2), layout="constrained")
    worst = "" if len(known) <= _MOST_CLASSES else f", the {_MOST_CLASSES} worst"
    titles = {"Mean over the classes": means, f"Classes at IoU 0.50{worst}": classes}
    for number, (title, names) in enumerate(titles.items(), start=1):
        axes = figure.add_subplot(1, 2, number)
        axes.set_prop_cycle(STYLES)
        for name in names:
            axes.plot(_RECALLS, data[name], label=name.replace("mean, ", ""))
        labels = {"xlabel": "recall", "ylabel": "precision", "title": title}
        plain_axes(axes, xlim=(0, 1.01), ylim=(0, 1.02), **labels)
        if names:
            axes.legend(fontsize="x-small", frameon=False, loc="lower left")
    return to_picture(
        figure, "precision_recall.png", "Precision over recall", pd.DataFrame(data), dpi=120
    )


def confusion_figure(matrix, class_names):
    """A :func:`~.confusion.confusion_matrix`, shaded by the share of each row."""
    names = [*class_names, "background"]
    data = pd.DataFrame(matrix, index=names, columns=names)
    side = float(np.clip(0.5 * len(names) + 2, 4.5, 14))
    figure = Figure((side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shades = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    size = "medium" if len(names) <= _MOST_NUMBERS else 5
    axes.set_xticks(ticks, names, rotation=90 if len(names) > 5 else 0, fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set(xlabel="detection", ylabel="object")
    if len(names) <= _MOST_NUMBERS + 1:
        for row, column in np.ndindex(matrix.shape):
            colour = "white" if share[row, column] > 0.6 else BLACK
            text = {"ha": "center", "va": "center", "color": colour, "fontsize": "small"}
            axes.text(column, row, f"{matrix[row, column]:,}", **text)
    figure.colorbar(shades, ax=axes, shrink=0.7, label="share of the row")
    table = data.reset_index(names="object", allow_duplicates=True)  # a class may be called so
    return to_picture(figure, "confusion.png", "Confusion matrix", table, dpi=110)


_MEANINGS = {
    "cls": "right place, wrong class",
    "loc": "right class, box not good enough",
    "both": "near an object, box and class wrong",
    "dup": "second detection of an object",
    "bkg": "on nothing",
    "miss": "object that nothing is near",
}


def costs_figure(costs):
    """What each kind of error costs, from :func:`~.tide.costs`, by name of the model."""
    data = pd.DataFrame(costs).loc[list(ERRORS)]
    figure = Figure((8.5, 0.5 * len(ERRORS) * max(len(costs), 1) ** 0.5 + 1), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(costs)
    for number, name in enumerate(data):
        rows = np.arange(len(data)) + height * (number - (len(costs) - 1) / 2)
        bars = axes.barh(rows, data[name], height * 0.9, color=COLOURS[number], label=name)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize="small")
    labels = [f"{name}: {_MEANINGS[name]}" for name in data.index]
    axes.set_yticks(range(len(data)), labels)
    axes.invert_yaxis()
    plain_axes(axes, xlabel="points of AP50 that correcting it would bring")
    axes.set_xlim(right=max(float(np.nanmax(data.to_numpy())), 1) * 1.12)
    if len(costs) > 1:
        figure.legend(fontsize="small", frameon=False, loc="outside upper right", ncols=len(costs))
    data = data.reset_index(names="error")
    return to_picture(figure, "errors.png", "AP50 that each kind of error costs", data, dpi=120)


def calibration_figure(table):
    """A :func:`~.scores.calibration`: precision over score, and how many detections there are."""
    figure = Figure((5.6, 4.8), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    middle, width = (table["low"] + table["high"]) / 2, table["high"] - table["low"]
    axes.bar(middle, table["precision"], width * 0.94, color=COLOURS[0], alpha=0.75)
    axes.plot(table["score"], table["precision"], "o", color=BLACK, markersize=4)
    axes.plot([0, 1], [0, 1], "--", color="#888888", linewidth=1)
    plain_axes(axes, ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    below.bar(middle, np.maximum(table["detections"], 0), width * 0.94, color="#7F7F7F")
    below.set_yscale("symlog", linthresh=1)
    below.yaxis.set_major_formatter("{x:,.0f}")
    plain_axes(below, xlabel="score", ylabel="detections")
    data = pd.DataFrame(table)
    return to_picture(figure, "calibration.png", "How often scores are right", data, dpi=120)


def stages_figure(table):
    """AP of each stage, see :func:`~.stages.ap_by_stage`."""
    figure = Figure((5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in zip(("AP50", "AP75", "AP"), COLOURS, strict=False):
        axes.plot(table["stage"], table[name], "o-", label=name, color=colour)
        last = table.iloc[-1]
        axes.annotate(f" {last[name]:.1f}", (last["stage"], last[name]), fontsize="small")
    axes.set_xticks(table["stage"])
    axes.legend(frameon=False, fontsize="small")
    plain_axes(axes, xlabel="stage", ylabel="percent", ylim=(0, None))
    return to_picture(figure, "stages.png", "AP of each stage", table, dpi=120)


def movement_figure(table):
    """What each stage changes, see :func:`~.stages.movement`."""
    figure = Figure((11, 3.3), layout="constrained")
    panels = [
        ("IoU", "IoU with the box before", (0, 1.02)),
        ("shift", "shift of the centre\n(parts of the diagonal)", (0, None)),
        ("change class", "share that changes class", (0, 1.02)),
        ("positives", "positives per object", (0, None)),
    ]
    for number, (name, label, limits) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        axes.plot(table["stage"], table[name], "o-", color=COLOURS[0], label="all proposals")
        if f"{name} of kept" in table:
            kept = table[f"{name} of kept"]
            axes.plot(table["stage"], kept, "s--", color=COLOURS[1], label="score of 0.3 or more")
        axes.set_xticks(table["stage"])
        plain_axes(axes, xlabel="stage", ylabel=label, ylim=limits)
        if number == 1:
            axes.legend(frameon=False, fontsize="x-small")
    return to_picture(figure, "movement.png", "What each stage changes", table, dpi=120)


def places_figure(history, places):
    """Where the most used proposals end up: a dot for each image, and the box that they start from.

    As the slots of DETR (Carion and others, ECCV 2020, figure 7) are drawn: green boxes are small,
    red ones large and wide, blue ones large and tall.

    Args:
        history (StageHistory): of all images.
        places (DataFrame): from :func:`~.stages.proposal_places`.
    """
    chosen = places.sort_values("uses", ascending=False, kind="stable")["proposal"][:_PANELS]
    columns = min(6, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure((1.9 * columns, 2.1 * rows), layout="constrained")
    step = -(-len(history.boxes) // _MOST_POINTS)
    for number, n in enumerate(chosen, start=1):
        axes = figure.add_subplot(rows, columns, number)
        boxes = history.boxes[::step, -1, n]
        width, height = (boxes[:, 2:] - boxes[:, :2]).T
        small = width * height < 0.05
        colours = np.where(small, COLOURS[2], np.where(width > height, COLOURS[1], COLOURS[0]))
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        axes.scatter(*centres.T, s=4, c=colours, alpha=0.5, linewidths=0)
        x0, y0, x1, y1 = history.boxes[:, 0, n].mean(axis=0)
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], "--", color=BLACK, linewidth=1)
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        axes.set_title(f"proposal {n}: {places['uses'][n]} uses", fontsize="x-small")
    return to_picture(figure, "proposals.png", "Where proposals end up", places, dpi=120)

"""The sections of the pages about data sets."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..analysis.charts import COLOURS, plain_axes, to_picture
from ..analysis.document import Section
from ..analysis.tables import number
from .findings import IMAGE_ODDITIES, SUSPICIONS
from .inspection import OBJECT_ODDITIES
from .sections import csv_link

__all__ = ["inspection_sections"]

_PAGE = "browse.html"
_MOST_BARS = 30  # classes in the histogram
_QUANTILES = {"1 %": 0.01, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "99 %": 0.99}


def inspection_sections(findings):
    """The sections (Iterator[Section]) of :class:`~.findings.Findings`."""
    truth, names = findings.truth, findings.names
    yield Section(
        text=f"{truth.num_images:,} images with {len(truth.image):,} objects of "
        f"{truth.num_classes} classes.",
        table=_overview(findings),
        links=[(_PAGE, "Look through the images")],
    )
    yield _odd_section(findings)
    yield _similar_section(findings)
    if findings.suspicions:
        yield _suspicion_section(findings)
    picture, table = _classes_figure(findings)
    yield Section("Classes", table=table, pictures=[picture], links=[csv_link(picture)])
    picture = _sizes_figure(findings)
    text = "Sizes are square roots of areas in pixels of the image files."
    quantiles = []
    for n, name in enumerate(names):
        own = (findings.set_of[truth.image] == n) & (findings.shapes["size"] > 0).to_numpy()
        values = findings.shapes["size"][own]
        points = {key: number(values.quantile(q), 1) for key, q in _QUANTILES.items()}
        quantiles.append({"size": name, **points})
    yield Section(
        "Sizes", text, pd.DataFrame(quantiles), pictures=[picture], links=[csv_link(picture)]
    )


def _overview(findings):
    truth, rows = findings.truth, []
    for n, (name, part) in enumerate(zip(findings.names, findings.truths, strict=True)):
        objects = np.bincount(part.image[~part.crowd], minlength=part.num_images)
        rows.append(
            {
                "data set": name,
                "images": f"{part.num_images:,}",
                "objects": f"{int(objects.sum()):,}",
                "crowds": f"{int(part.crowd.sum()):,}",
                "of unknown class": f"{part.num_unknown:,}",
                "per image": number(float(objects.mean()), 1),
                "at most": str(int(objects.max())),
                "without": str(int((objects == 0).sum())),
                "median image": "{} x {}".format(
                    *np.median(truth.sizes[findings.set_of == n], axis=0).astype(int)
                ),
            }
        )
    return pd.DataFrame(rows)


def _odd_section(findings):
    """Counts of objects and images by data set."""
    rows, links = [], []
    meanings = OBJECT_ODDITIES | IMAGE_ODDITIES
    for name, chosen in {**findings.objects, **findings.images}.items():
        whose = findings.set_of
        whose = whose[findings.truth.image] if name in OBJECT_ODDITIES else whose
        counts = [int((chosen & (whose == n)).sum()) for n in range(len(findings.truths))]
        rows.append(
            {"": meanings[name], **dict(zip(findings.names, map(str, counts), strict=True))}
        )
        if chosen.any():
            links.append((f"{_PAGE}#kind={name.replace(' ', '+')}", meanings[name]))
    return Section(
        "Odd objects and images",
        table=pd.DataFrame(rows),
        notes=[
            "Reaching out: by more than a pixel. On the same place: IoU of 0.9 or more with one "
            "before. Tiny: a side below 4 pixels. Nearly the whole image: nine tenths of its area."
        ],
        links=[*links, ("tables/odd_objects.csv", "CSV")],
    )


def _similar_section(findings):
    similar = findings.similar
    if similar.level is None:
        text = (
            "All images look nearly the same, as from a camera that does not move: groups cannot "
            "be told apart."
        )
        return Section("Similar images", text)
    count = int((similar.group >= 0).sum())
    text = f"{count} images look nearly the same as another one; they form groups of like ones."
    notes = [
        f"Correlation of their thumbnails (32 x 32, grey) above {similar.level}, directly or "
        "through a chain of others."
    ]
    links = [(f"{_PAGE}#sort=group&kind=similar", "look at them"), ("tables/similar.csv", "CSV")]
    if len(findings.truths) > 1:
        across = int(similar.across.sum())
        text += f" {across} are in a group with images of several data sets."
        notes.append("Between training and test, such images make results look too good.")
        links.insert(1, (f"{_PAGE}#sort=group&kind=across", "those of several data sets"))
    return Section("Similar images", text, notes=notes, links=links)


def _suspicion_section(findings):
    kinds = findings.kinds()
    rows, links = [], []
    for name, meaning in SUSPICIONS.items():
        counts = kinds[name][1]
        by_set = [int(counts[findings.set_of == n].sum()) for n in range(len(findings.truths))]
        rows.append({"": meaning, **dict(zip(findings.names, map(str, by_set), strict=True))})
        links.append((f"{_PAGE}#sort=suspicious&kind={name.replace(' ', '+')}", meaning))
    lowest = ", ".join(
        f"{name} {score:.2f}"
        for name, score in zip(findings.truth.class_names, findings.suspicions.lowest, strict=True)
    )
    return Section(
        "Suspicious labels",
        "Where the model is sure and the label says something else. Look before you believe it.",
        pd.DataFrame(rows),
        [
            "Sure: from the mean score of right detections of the class, as in confident learning "
            f"(arXiv 1911.00068): {lowest}. Sees nothing: no detection of 0.05 or more is near.",
            "A model that was trained on these images has learned their errors too, and "
            "contradicts fewer of them.",
        ],
        links=[*links, ("tables/suspicious.csv", "CSV")],
    )


def _classes_figure(findings):
    truth = findings.truth
    counts = pd.DataFrame(
        {
            name: np.bincount(
                truth.classes[(findings.set_of[truth.image] == n) & ~truth.crowd],
                minlength=truth.num_classes,
            )
            for n, name in enumerate(findings.names)
        }
    )
    counts.insert(0, "class", truth.class_names)
    order = counts.drop(columns="class").sum(axis=1).sort_values(ascending=False, kind="stable")
    counts = counts.loc[order.index]
    shown = counts[:_MOST_BARS]
    figure = Figure((8.5, 0.28 * len(shown) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    left = np.zeros(len(shown))
    for name, colour in zip(findings.names, COLOURS * len(findings.names), strict=False):
        axes.barh(range(len(shown)), shown[name], left=left, color=colour, label=name)
        left += shown[name].to_numpy()
    axes.set_yticks(range(len(shown)), shown["class"])
    axes.invert_yaxis()
    more = "" if len(shown) == len(counts) else f", the {_MOST_BARS} most frequent"
    plain_axes(axes, xlabel=f"objects{more}")
    if len(findings.names) > 1:
        axes.legend(frameon=False, fontsize="small")
    picture = to_picture(figure, "classes.png", "Objects of each class", counts, dpi=120)
    return picture, counts.map(lambda x: x if isinstance(x, str) else f"{x:,}")


def _sizes_figure(findings):
    """Histograms of sizes, aspect ratios, and objects of an image, as shares of each data set."""
    truth, shapes = findings.truth, findings.shapes
    objects = np.bincount(truth.image[~truth.crowd], minlength=truth.num_images)
    most = int(objects.max(initial=1))
    step = max(most // 30, 1)
    panels = {
        "size": (shapes["size"].to_numpy(), 2 ** np.arange(0, 12.01, 0.5), "size in pixels"),
        "aspect": (shapes["aspect"].to_numpy(), 2 ** np.arange(-4, 4.01, 0.5), "width / height"),
        "objects": (objects, np.arange(-0.5, most + step, step), "objects of an image"),
    }
    figure, rows = Figure((11, 3.3), layout="constrained"), []
    for place, (name, (values, edges, label)) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, 3, place)
        whose = findings.set_of if name == "objects" else findings.set_of[truth.image]
        valid = np.isfinite(values) & (values > (0 if name != "objects" else -1))
        if name != "objects":
            valid &= ~truth.crowd
        for n, part in enumerate(findings.names):
            own = values[valid & (whose == n)]
            counts = np.histogram(np.clip(own, edges[0], edges[-1]), edges)[0]
            share = counts / max(len(own), 1)
            axes.stairs(share, edges, color=COLOURS[n % len(COLOURS)], label=part, linewidth=1.6)
            columns = {"what": name, "data set": part, "from": edges[:-1], "to": edges[1:]}
            rows.append(pd.DataFrame({**columns, "count": counts}))
        if name != "objects":
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        plain_axes(axes, xlabel=label, ylabel="share", ylim=(0, None))
        if place == 1 and len(findings.names) > 1:
            axes.legend(frameon=False, fontsize="small")
    data = pd.concat(rows, ignore_index=True)
    return to_picture(figure, "sizes.png", "Sizes, aspect ratios and numbers of objects", data, 120)

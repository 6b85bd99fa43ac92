"""The pages about data sets: see :mod:`~sparsercnn.report.inspection`."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..analysis.charts import COLOURS, plain_axes, to_picture
from ..analysis.document import Section
from ..analysis.tables import number
from ..data import register_datasets
from ..data.classes import require_registered
from ..errors import abbreviate
from .browser import Browser, Sort, write_browser
from .inference import run_model
from .inspection import (
    OBJECT_ODDITIES,
    find_odd_images,
    find_odd_objects,
    find_similar,
    find_suspicions,
    merge,
    shapes_of,
)
from .making import empty_folder, load_source
from .matching import match
from .records import read_truth, slices
from .tide import find_errors
from .writing import write_pages

__all__ = ["InspectOptions", "inspect_data"]

_PAGE = "browse.html"
_MOST_BARS = 30  # classes in the histogram
_MOST_NOTES = 20  # lines of an image
_LOWEST = 0.05  # score of detections on the page
_TAGS = {
    "object": ("#22a559", "object"),
    "crowd": ("#9a9a9a", "crowd"),
    "no area": ("#e23b3b", "no area"),
    "outside": ("#e07a00", "reaches out of the image"),
    "repeated": ("#2f9fe0", "repeated"),
    "two classes": ("#b06ad9", "two classes"),
    "tiny": ("#e3c000", "tiny"),
    "huge": ("#9c6b3f", "huge"),
}
_MODEL_TAGS = {
    "unseen": ("#e2379b", "object where the model sees nothing"),
    "agrees": ("#8f98a3", "detection"),
    "wrong class": ("#e07a00", "sure of another class"),
    "no label": ("#e23b3b", "sure of something without a label"),
    "inexact": ("#e3c000", "sure of another box"),
}
_SUSPICIONS = {
    "wrong class": "objects whose class the model contradicts",
    "no label": "objects that may lack a label",
    "inexact": "boxes that the model contradicts",
    "unseen": "objects where the model sees nothing",
}
_IMAGE_ODDITIES = {
    "empty": "images without objects",
    "unreadable": "images that cannot be read",
    "wrong size": "images of another size than annotated",
}


@dataclass
class InspectOptions:
    """What the command line says."""

    datasets: list
    output: str
    config_file: str = ""
    opts: list = field(default_factory=list)  # KEY VALUE pairs; with MODEL.WEIGHTS, a model is used
    allow_unsafe: bool = False
    max_images: int = 5000
    picture_size: int = 640


def inspect_data(options):
    """Write pages about data sets.

    Args:
        options (InspectOptions): what is asked for.

    Returns:
        Path: of `index.html`.

    Raises:
        ConfigError: the output folder holds other files, or the model cannot be loaded.
        DataError: a data set cannot be read, or has other classes than the model.
    """
    folder = Path(options.output)
    empty_folder(folder)
    register_datasets(options.datasets)
    for name in options.datasets:
        require_registered(name)
    truths = [read_truth(name) for name in options.datasets]
    findings = _Findings(truths)
    if options.config_file or "MODEL.WEIGHTS" in options.opts:
        source = load_source(options, options.config_file, options.opts, options.datasets[0])
        findings.ask(source.predictor)
    title = f"What is in {', '.join(options.datasets)}"
    write_pages(title, list(_sections(findings)), findings.tables(), folder)
    unreadable = write_browser(
        findings.browser(title), folder, options.max_images, options.picture_size
    )
    if unreadable:
        logging.getLogger(__name__).warning(
            f"{len(unreadable)} images cannot be read: {abbreviate(unreadable)}"
        )
    return folder / "index.html"


class _Findings:
    """All that is counted and found."""

    def __init__(self, truths):
        self.truths = truths
        self.truth, self.set_of = merge(truths)
        self.shapes = shapes_of(self.truth)
        self.objects = find_odd_objects(self.truth)
        self.images = find_odd_images(self.truth)
        self.similar = find_similar(self.truth.files, self.set_of)
        self.detections = self.suspicions = None

    def ask(self, predictor):
        """Compare the labels with what a model finds."""
        self.detections = run_model(predictor, self.truth).detections
        errors = find_errors(self.truth, self.detections, match(self.truth, self.detections))
        self.suspicions = find_suspicions(self.truth, self.detections, errors)

    @property
    def names(self):
        """list[str]: of the data sets, short where they still differ."""
        short = [x.name.rpartition("@")[2] for x in self.truths]
        return short if len(set(short)) == len(short) else [x.name for x in self.truths]

    def _by_suspicion(self):
        x = self.suspicions
        return {"wrong class": x.wrong_class, "no label": x.no_label, "inexact": x.inexact}

    def kinds(self):
        """What an image may have: name -> (meaning, (I,) how many)."""

        def count(image, chosen):
            return np.bincount(image[chosen], minlength=self.truth.num_images)

        kinds = {}
        if self.suspicions:
            for name, chosen in self._by_suspicion().items():
                kinds[name] = _SUSPICIONS[name], count(self.detections.image, chosen)
            kinds["unseen"] = (
                _SUSPICIONS["unseen"],
                count(self.truth.image, self.suspicions.unseen),
            )
        for name, chosen in self.objects.items():
            kinds[name] = OBJECT_ODDITIES[name], count(self.truth.image, chosen)
        for name, chosen in self.images.items():
            kinds[name] = _IMAGE_ODDITIES[name], chosen.astype(int)
        kinds["similar"] = "images like another one", (self.similar.group >= 0).astype(int)
        if len(self.truths) > 1:
            across = self.similar.across.astype(int)
            kinds["across"] = "images like one of another data set", across
        return kinds

    def tables(self):
        """Files of the report."""
        truth = self.truth
        objects = {"image": np.array(truth.files)[truth.image]}
        objects |= {"class": np.array(truth.class_names)[truth.classes]}
        objects |= {side: values for side, values in zip("xyXY", truth.annotated.T, strict=True)}
        objects = pd.DataFrame({**objects, **self.objects})
        names = {"X": "right", "Y": "bottom", "x": "left", "y": "top"}
        if self.suspicions:
            objects["unseen"] = self.suspicions.unseen
        odd = objects[objects.select_dtypes(bool).any(axis=1)].rename(columns=names)
        tables = {"odd_objects": odd, "similar": self._similar_table()}
        if self.suspicions:
            tables["suspicious"] = self._suspicious_table()
        return tables

    def _similar_table(self):
        group = self.similar.group
        own = np.flatnonzero(group >= 0)
        own = own[np.argsort(group[own], kind="stable")]
        columns = {"group": group[own], "image": [self.truth.files[i] for i in own]}
        return pd.DataFrame({**columns, "data set": [self.names[n] for n in self.set_of[own]]})

    def _suspicious_table(self):
        x, rows = self.detections, []
        for name, chosen in self._by_suspicion().items():
            for n in np.flatnonzero(chosen):
                rows.append(
                    {
                        "image": self.truth.files[x.image[n]],
                        "suspicion": name,
                        "class": self.truth.class_names[x.classes[n]],
                        "score": x.scores[n],
                        **dict(zip(("left", "top", "right", "bottom"), x.boxes[n], strict=True)),
                    }
                )
        columns = ["image", "suspicion", "class", "score", "left", "top", "right", "bottom"]
        table = pd.DataFrame(rows, columns=columns)
        return table.sort_values("score", ascending=False, kind="stable")

    def browser(self, title):
        """Browser: of all images."""
        kinds, truth = self.kinds(), self.truth
        odd = sum(counts for _, counts in kinds.values())
        sorts = [Sort("odd", "oddities", odd)]
        if self.suspicions:
            doubt = sum(kinds[name][1] for name in _SUSPICIONS)
            sorts.insert(0, Sort("suspicious", "suspicious labels", doubt))
        group = self.similar.group.astype(float)
        group[group < 0] = np.nan
        if not np.isnan(group).all():
            sorts.append(Sort("group", "group of similar images", group, descending=False))
        objects = np.bincount(truth.image, minlength=truth.num_images)
        sorts.append(Sort("objects", "objects", objects))
        sorts.append(Sort("number", "number", np.arange(truth.num_images), descending=False))
        if len(self.truths) > 1:
            for number_, name in enumerate(self.names):
                kinds[f"in-{number_}"] = f"data set {name}", (self.set_of == number_).astype(int)
        of_image = slices(truth.image, truth.num_images)
        return Browser(
            title=title,
            files=truth.files,
            sizes=truth.sizes,
            class_names=truth.class_names,
            panels=["labels"] if self.detections is None else ["labels", "model"],
            tags=_TAGS if self.detections is None else _TAGS | _MODEL_TAGS,
            sorts=sorts,
            kinds=kinds,
            classes=[np.unique(truth.classes[own]).tolist() for own in of_image],
            boxes=_Boxes(self, of_image),
            thresholds=[] if self.suspicions is None else self.suspicions.lowest,
            notes=self._notes(of_image),
        )

    def _notes(self, of_image):
        members = {}
        for i in np.flatnonzero(self.similar.group >= 0).tolist():
            members.setdefault(int(self.similar.group[i]), []).append(i)
        notes = []
        for i, own in enumerate(of_image):
            lines = [self.truth.files[i]] if len(self.truths) == 1 else []
            lines = lines or [f"{self.names[self.set_of[i]]}: {self.truth.files[i]}"]
            lines += [
                _IMAGE_ODDITIES[k].replace("images", "image") for k in _odd_of(self.images, i)
            ]
            counts = Counter({k: int(x[own].sum()) for k, x in self.objects.items()})
            lines += [f"{OBJECT_ODDITIES[k]}: {n}" for k, n in counts.items() if n]
            others = [j for j in members.get(int(self.similar.group[i]), []) if j != i]
            lines += [
                f"looks like {Path(self.truth.files[j]).name} ({self.names[self.set_of[j]]})"
                for j in others[:_MOST_NOTES]
            ]
            notes.append(lines)
        return notes


def _odd_of(conditions, i):
    return [name for name, chosen in conditions.items() if chosen[i]]


class _Boxes:
    """What is on an image: its labels, and what the model finds."""

    def __init__(self, findings, of_image):
        self._findings, self._objects = findings, of_image
        number = findings.truth.num_images
        found = findings.detections
        self._found = None if found is None else slices(found.image, number)

    def __call__(self, i):
        x, truth = self._findings, self._findings.truth
        labels = []
        for m in range(self._objects[i].start, self._objects[i].stop):
            tag = next(iter(_odd_of(x.objects, m)), "crowd" if truth.crowd[m] else "object")
            if tag == "object" and x.suspicions and x.suspicions.unseen[m]:
                tag = "unseen"
            labels.append((truth.annotated[m], truth.classes[m], -1, tag))
        if self._found is None:
            return [labels]
        found, conditions = x.detections, x._by_suspicion()
        model = [
            (
                found.boxes[n],
                found.classes[n],
                found.scores[n],
                next(iter(_odd_of(conditions, n)), "agrees"),
            )
            for n in range(self._found[i].start, self._found[i].stop)
            if found.scores[n] >= _LOWEST
        ]
        return [labels, model]


def _sections(findings):
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
    yield Section("Classes", table=table, pictures=[picture], links=[_csv(picture)])
    picture = _sizes_figure(findings)
    text = "Sizes are square roots of areas in pixels of the image files."
    quantiles = []
    for n, name in enumerate(names):
        own = (findings.set_of[truth.image] == n) & (findings.shapes["size"] > 0).to_numpy()
        values = findings.shapes["size"][own]
        points = values.quantile([0.01, 0.05, 0.5, 0.95, 0.99]) if len(values) else []
        labels = ("1 %", "5 %", "median", "95 %", "99 %")
        quantiles.append({"size": name, **dict(zip(labels, (number(x, 1) for x in points)))})
    yield Section("Sizes", text, pd.DataFrame(quantiles), pictures=[picture], links=[_csv(picture)])


def _csv(picture):
    return f"figures/{picture.name.removesuffix('.png')}.csv", "CSV"


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
    meanings = OBJECT_ODDITIES | _IMAGE_ODDITIES
    for name, chosen in {**findings.objects, **findings.images}.items():
        whose = findings.set_of
        whose = whose[findings.truth.image] if name in OBJECT_ODDITIES else whose
        counts = [int((chosen & (whose == n)).sum()) for n in range(len(findings.truths))]
        rows.append({"": meanings[name], **dict(zip(findings.names, map(str, counts)))})
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
    groups = int(similar.group.max()) + 1
    text = f"{count} images in {groups} groups look nearly the same as another one."
    notes = [
        f"Correlation of their thumbnails (32 x 32, grey) above {similar.level}, directly or "
        "through a chain of others."
    ]
    links = [(f"{_PAGE}#sort=group&kind=similar", "look at them"), ("tables/similar.csv", "CSV")]
    if len(findings.truths) > 1:
        across = int(similar.across.sum())
        text += f" {across} are in a group with images of several data sets."
        notes.append(
            "Between training and test, such images make figures look better than they are."
        )
        links.insert(1, (f"{_PAGE}#sort=group&kind=across", "those of several data sets"))
    return Section("Similar images", text, notes=notes, links=links)


def _suspicion_section(findings):
    kinds = findings.kinds()
    rows, links = [], []
    for name, meaning in _SUSPICIONS.items():
        counts = kinds[name][1]
        by_set = [int(counts[findings.set_of == n].sum()) for n in range(len(findings.truths))]
        rows.append({"": meaning, **dict(zip(findings.names, map(str, by_set)))})
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
            "A model that was trained on these images has learned their errors too, and contradicts "
            "fewer of them.",
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
    panels = {
        "size": (shapes["size"].to_numpy(), 2 ** np.arange(0, 12.01, 0.5), "size in pixels"),
        "aspect": (shapes["aspect"].to_numpy(), 2 ** np.arange(-4, 4.01, 0.5), "width / height"),
        "objects": (objects, np.arange(-0.5, most + 1, max(most // 30, 1)), "objects of an image"),
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

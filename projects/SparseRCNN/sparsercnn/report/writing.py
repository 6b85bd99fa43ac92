"""The folder of a report: pages, figures, tables and thresholds."""

import numpy as np
import pandas as pd

from ..analysis.document import Section, to_html
from ..files import write_json
from .browser import Browser, Sort, write_browser
from .per_image import compare_objects
from .records import slices
from .sections import comparison_sections, model_sections, precision_table, stage_sections
from .tide import KINDS

__all__ = ["write_pages", "write_report", "write_thresholds"]

_PAGE = "browse.html"
_LOWEST = 0.05  # score of detections on the pages
_TAGS = {
    "right": ("#22a559", "right"),
    "cls": ("#e07a00", "cls: wrong class"),
    "loc": ("#e3c000", "loc: box not good enough"),
    "both": ("#b06ad9", "both: class and box"),
    "dup": ("#2f9fe0", "dup: second detection"),
    "bkg": ("#e23b3b", "bkg: on nothing"),
    "ignored": ("#9a9a9a", "not counted"),
    "found": ("#22a559", "object that is found"),
    "missed": ("#e2379b", "object that is not found"),
    "crowd": ("#9a9a9a", "crowd"),
}
_KINDS = {
    "miss": "missed objects",
    "cls": "wrong classes",
    "loc": "inexact boxes",
    "both": "class and box wrong",
    "dup": "duplicates",
    "bkg": "detections of nothing",
    "right": "finds",
}


def write_report(results, folder, pictures=(), most_images=5000, picture_size=640):
    """Write `index.html`, `browse.html` and what they show.

    Args:
        results (list[Result]): of one model, or of two that are compared, of the same data set.
        folder (Path): made if need be.
        pictures (sequence[Picture]): further ones, such as attention maps.
        most_images, picture_size (int): see :func:`~.browser.write_browser`.

    Returns:
        tuple[Path, list[str]]: `index.html`, and the images that cannot be read.
    """
    first = results[0]
    truth = first.truth
    names = " and ".join(x.name for x in results)
    sections = [
        Section(
            text=f"{truth.num_images:,} images of {truth.name} with "
            f"{np.count_nonzero(~truth.crowd):,} objects of {truth.num_classes} classes.",
            links=[(_PAGE, "Look through the images")],
        )
    ]
    tables = {"images": first.images, "precision": precision_table(first)}
    if len(results) > 1:
        objects = compare_objects(truth, first.found, results[1].found)
        sections += comparison_sections(*results, objects, _PAGE)
        others = results[1].images.drop(columns="objects")
        columns = first.images.merge(others, on="image", suffixes=("", "_2"))
        tables |= {"objects": objects, "precision_2": precision_table(results[1])}
        tables["images"] = columns if len(columns) == truth.num_images else first.images
    sections += _of_models(results)
    if pictures:
        note = "By tools/draw_attention.py, which draws any other image and detection."
        sections.append(Section("Attention", notes=[note], pictures=list(pictures)))
    write_pages(f"{names} on {truth.name}", sections, tables, folder)
    for number, result in enumerate(results, start=1):
        suffix = "" if number == 1 else f"_{number}"
        write_thresholds(result, folder / f"thresholds{suffix}.json")
    browser = _browser(f"{names} on {truth.name}", results)
    return folder / "index.html", write_browser(browser, folder, most_images, picture_size)


def _of_models(results):
    """Sections of each model; those of a second one have its name, and figures of other names."""
    for number, result in enumerate(results, start=1):
        for section in [*model_sections(result, _PAGE), *stage_sections(result)]:
            if len(results) > 1:
                section.title = f"{section.title}: {result.name}"
            if number > 1:
                section.pictures = [x._replace(name=_second(x.name)) for x in section.pictures]
                section.links = [(_second(x), text) for x, text in section.links]
            yield section


def _second(name):
    """The name of the second model's file, or of its kind of images on the page."""
    if name.startswith(_PAGE):
        return f"{name}_2" if "#kind=" in name else name
    stem, dot, ending = name.rpartition(".")
    return f"{stem}_2{dot}{ending}"


def write_pages(title, sections, tables, folder):
    """Write `index.html` with its figures and tables.

    Args:
        title (str): of the page.
        sections (list[Section]): its parts; figures are written into `figures`, as PNG and CSV.
        tables (dict[str, DataFrame]): files in `tables`.
        folder (Path): made if need be.
    """
    figures = folder / "figures"
    for path in (figures, folder / "tables"):
        path.mkdir(parents=True, exist_ok=True)
    for picture in (x for section in sections for x in section.pictures):
        (figures / picture.name).write_bytes(picture.png)
        if picture.data is not None:
            path = figures / picture.name.replace(".png", ".csv")
            picture.data.to_csv(path, index=False, float_format="%.6g")
    for name, table in tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False, float_format="%.6g")
    page = to_html(title, sections, pictures_in="figures")
    (folder / "index.html").write_text(page, encoding="utf-8")


def write_thresholds(result, path):
    """Write the threshold of each class with its F1, precision and recall, as
    :func:`~sparsercnn.inference.thresholds.read_thresholds` reads them."""
    classes = {}
    for name, x in zip(result.truth.class_names, result.thresholds, strict=True):
        values = {"score": x.score, "f1": x.f1, "precision": x.precision, "recall": x.recall}
        classes[name] = {k: None if np.isnan(v) else round(v, 6) for k, v in values.items()}
    write_json(path, {"iou": 0.5, "data": result.truth.name, "classes": classes}, indent=2)


def _browser(title, results):
    first, truth = results[0], results[0].truth
    images = first.images
    sorts = [Sort("LRP", "LRP error", images["LRP"].to_numpy())]
    if images["loss"].notna().any():
        sorts.insert(0, Sort("loss", "loss", images["loss"].to_numpy()))
    if len(results) > 1:
        gain = (images["LRP"] - results[1].images["LRP"]).to_numpy()
        name = results[1].name
        worse = Sort("worse", f"{name} is worse: LRP", gain, descending=False)
        sorts[:0] = [Sort("better", f"{name} is better: LRP", gain), worse]
    kinds = {}
    for number, result in enumerate(results, start=1):
        suffix = "" if number == 1 else "_2"
        of = f" of {result.name}" if len(results) > 1 else ""
        counts = result.images
        kinds |= {k + suffix: (x + of, counts[k].to_numpy()) for k, x in _KINDS.items()}
    sorts += [Sort(f"most-{k}", f"most {text}", number) for k, (text, number) in kinds.items()]
    sorts += [Sort("number", "number", np.arange(truth.num_images), descending=False)]
    if len(results) > 1:
        kinds |= _only(results)
    return Browser(
        title=title,
        files=truth.files,
        sizes=truth.sizes,
        class_names=truth.class_names,
        panels=["ground truth", *(x.name for x in results)],
        tags=_TAGS if len(results) == 1 else _tags_of_first(first.name),
        sorts=sorts,
        kinds=kinds,
        classes=_classes(truth, results),
        boxes=_Boxes(truth, results),
        thresholds=[[x.score for x in result.thresholds] for result in results],
    )


def _tags_of_first(name):
    found, missed = (f"object that {name} {x}" for x in ("finds", "does not find"))
    return {
        **_TAGS,
        "found": (_TAGS["found"][0], found),
        "missed": (_TAGS["missed"][0], missed),
    }


def _only(results):
    """Objects that only one of two models finds, as kinds of a page."""
    truth, found = results[0].truth, [x.found for x in results]
    return {
        f"only-{i + 1}": (
            f"objects that only {results[i].name} finds",
            np.bincount(truth.image[found[i] & ~found[1 - i]], minlength=truth.num_images),
        )
        for i in range(2)
    }


def _classes(truth, results):
    """Classes of the objects, and of detections above their threshold, for each image."""
    pairs = [np.stack([truth.image, truth.classes])]
    for x in results:
        pairs.append(np.stack([x.detections.image[x.shown], x.detections.classes[x.shown]]))
    found = pd.DataFrame(np.unique(np.concatenate(pairs, axis=1), axis=1).T, columns=["i", "k"])
    lists = found.groupby("i")["k"].agg(list)
    return [lists.get(i, []) for i in range(truth.num_images)]


class _Boxes:
    """What is on an image: objects, and the detections of each model."""

    def __init__(self, truth, results):
        self._truth, self._results = truth, results
        self._objects = slices(truth.image, truth.num_images)
        self._found = [slices(x.detections.image, truth.num_images) for x in results]
        self._is_found = results[0].found

    def __call__(self, i):
        truth = self._truth
        objects = []
        for m in range(self._objects[i].start, self._objects[i].stop):
            tag = "crowd" if truth.crowd[m] else "found" if self._is_found[m] else "missed"
            objects.append((truth.boxes[m], truth.classes[m], -1, tag))
        panels = [objects]
        for result, found in zip(self._results, self._found, strict=True):
            x, kind = result.detections, result.errors.kind
            own = range(found[i].start, found[i].stop)
            panels.append(
                [
                    (x.boxes[n], x.classes[n], x.scores[n], KINDS[kind[n]])
                    for n in own
                    if x.scores[n] >= _LOWEST
                ]
            )
        return panels

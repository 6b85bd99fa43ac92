"""A page to look through the images of a data set, which needs no server.

The browser gets one file with a line for each image, and the boxes in chunks as it comes to them:
scripts, because pages that are opened as files may not read others.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from ..image_files import UNREADABLE, open_image, to_eight_bits

__all__ = ["Browser", "Sort", "write_browser"]

_CHUNK = 50  # images whose boxes are in one file
_THREADS = 2  # that decode images
_THUMBNAIL = 160  # longer side in pixels
_QUALITY = 80  # of JPEG
_SCRIPTS = ("browse.js", "browse.css")


@dataclass
class Sort:
    """An order of the images, and the value that is shown in it."""

    key: str
    label: str
    values: np.ndarray  # (I,)
    descending: bool = True


@dataclass
class Browser:
    """What the page shows. `boxes` says what is on an image, so that little is in memory."""

    title: str
    files: list  # of I paths
    sizes: np.ndarray  # (I, 2) width and height
    class_names: list
    panels: list  # of names; each shows the image with its boxes
    tags: dict  # what a box may be: name -> (colour, meaning)
    sorts: list  # of Sort; the first one chooses the images, if there are too many
    kinds: dict  # name -> (meaning, (I,) how many of it there are on each image)
    classes: list  # of I lists of classes that occur
    boxes: object  # index of an image -> for each panel a list of (box, class, score, tag)
    thresholds: list = field(default_factory=list)  # for each panel but the first, of K scores
    threshold_label: str = "best for each class"
    notes: list = field(default_factory=list)  # for each image a list of sentences; or []


def write_browser(browser, folder, most_images=5000, picture_size=640):
    """Write the page `browse.html`, and what it needs, into a folder.

    Args:
        browser (Browser): what it shows.
        folder (Path): an existing folder.
        most_images (int): images with the largest values of the first order, whatever their sign
            (in a comparison: where the models differ most); others are left out.
        picture_size (int): longer side of a picture in pixels, at most.

    Returns:
        list[str]: files that cannot be read, which have no picture.
    """
    order = np.argsort(-np.abs(browser.sorts[0].values), kind="stable")[:most_images]
    chosen = np.sort(order)
    parts = {name: folder / name for name in ("boxes", "pictures", "thumbnails")}
    for path in parts.values():
        path.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(chosen), _CHUNK):
        content = [_entry(browser, i) for i in chosen[start : start + _CHUNK].tolist()]
        text = f"BOXES[{start // _CHUNK}] = {_json(content)};\n"
        (parts["boxes"] / f"{start // _CHUNK}.js").write_text(text, encoding="utf-8")
    index = f"const INDEX = {_json(_index(browser, chosen))};\n"
    (folder / "index.js").write_text(index, encoding="utf-8")
    for name in _SCRIPTS:
        (folder / name).write_bytes((files("sparsercnn.report") / name).read_bytes())
    loader = jinja2.PackageLoader("sparsercnn.report", "")
    page = jinja2.Environment(loader=loader, autoescape=True).get_template("browse.html.j2")
    text = page.render(browser=browser, shown=len(chosen))
    (folder / "browse.html").write_text(text, encoding="utf-8")
    return _save_pictures([browser.files[i] for i in chosen], parts, picture_size)


def _json(content):
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


def _index(browser, chosen):
    return {
        "classes": browser.class_names,
        "panels": browser.panels,
        "tags": [[name, *rest] for name, rest in browser.tags.items()],
        "thresholds": [[round(float(x), 6) for x in scores] for scores in browser.thresholds],
        "chunk": _CHUNK,
        "names": [Path(browser.files[i]).name for i in chosen],
        "of": [browser.classes[i] for i in chosen],
        "sorts": [
            [x.key, x.label, x.descending, [_number(v) for v in x.values[chosen]]]
            for x in browser.sorts
        ],
        "kinds": [
            [name, meaning, counts[chosen].tolist()]
            for name, (meaning, counts) in browser.kinds.items()
        ],
    }


def _number(value):
    """Four digits; None, which json has, for NaN."""
    return None if np.isnan(value) else float(f"{value:.4g}")


def _entry(browser, i):
    tags = {name: number for number, name in enumerate(browser.tags)}
    panels = [
        [[*_sides(box), int(k), round(float(score), 4), tags[tag]] for box, k, score, tag in boxes]
        for boxes in browser.boxes(i)
    ]
    notes = browser.notes[i] if browser.notes else []
    return [*browser.sizes[i].tolist(), panels, notes]


def _sides(box):
    x0, y0, x1, y1 = np.asarray(box).tolist()
    return [round(x, 1) for x in (x0, y0, x1 - x0, y1 - y0)]


def _save_pictures(paths, parts, size):
    def save(numbered):
        number, path = numbered
        try:
            with open_image(path) as image:
                image.draft("RGB", (size, size))  # JPEG: decoded at about this size
                picture = to_eight_bits(image).convert("RGB")
        except UNREADABLE:
            return str(path)
        picture.thumbnail((size, size), Image.Resampling.BILINEAR)
        picture.save(parts["pictures"] / f"{number}.jpg", quality=_QUALITY)
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        picture.save(parts["thumbnails"] / f"{number}.jpg", quality=_QUALITY)
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        return [x for x in pool.map(save, enumerate(paths)) if x]

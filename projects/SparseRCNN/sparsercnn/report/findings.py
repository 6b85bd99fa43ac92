"""All that is found in data sets: see :mod:`~sparsercnn.report.inspection`."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from .browser import Browser, Sort
from .inference import detect
from .inspection import (
    OBJECT_ODDITIES,
    find_odd_images,
    find_odd_objects,
    find_similar,
    find_suspicions,
    merge,
    shapes_of,
)
from .matching import match
from .records import slices
from .tide import find_errors

__all__ = ["IMAGE_ODDITIES", "SUSPICIONS", "Findings"]

_SIDES = ("left", "top", "right", "bottom")
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
SUSPICIONS = {
    "wrong class": "objects whose class the model contradicts",
    "no label": "objects that may lack a label",
    "inexact": "boxes that the model contradicts",
    "unseen": "objects where the model sees nothing",
}
IMAGE_ODDITIES = {
    "empty": "images without objects",
    "unreadable": "images that cannot be read",
    "wrong size": "images of another size than annotated",
}


class Findings:
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
        self.detections, unreadable = detect(predictor, self.truth)
        self.images["unreadable"] |= unreadable
        errors = find_errors(self.truth, self.detections, match(self.truth, self.detections))
        self.suspicions = find_suspicions(self.truth, self.detections, errors)
        self.suspicions.unseen[unreadable[self.truth.image]] = False

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
                kinds[name] = SUSPICIONS[name], count(self.detections.image, chosen)
            kinds["unseen"] = (
                SUSPICIONS["unseen"],
                count(self.truth.image, self.suspicions.unseen),
            )
        for name, chosen in self.objects.items():
            kinds[name] = OBJECT_ODDITIES[name], count(self.truth.image, chosen)
        for name, chosen in self.images.items():
            kinds[name] = IMAGE_ODDITIES[name], chosen.astype(int)
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
        objects |= dict(zip(_SIDES, truth.annotated.T, strict=True))
        objects = pd.DataFrame({**objects, **self.objects})
        if self.suspicions:
            objects["unseen"] = self.suspicions.unseen
        odd = objects[objects.select_dtypes(bool).any(axis=1)]
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
                        **dict(zip(_SIDES, x.boxes[n], strict=True)),
                    }
                )
        columns = ["image", "suspicion", "class", "score", *_SIDES]
        table = pd.DataFrame(rows, columns=columns)
        return table.sort_values("score", ascending=False, kind="stable")

    def browser(self, title):
        """Browser: of all images."""
        kinds, truth = self.kinds(), self.truth
        odd = sum(counts for _, counts in kinds.values())
        sorts = [Sort("odd", "oddities", odd)]
        if self.suspicions:
            doubt = sum(kinds[name][1] for name in SUSPICIONS)
            sorts.insert(0, Sort("suspicious", "suspicious labels", doubt))
        group = self.similar.group.astype(float)
        group[group < 0] = np.nan
        if not np.isnan(group).all():
            sorts.append(Sort("group", "group", group, descending=False))
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
            thresholds=[] if self.suspicions is None else [self.suspicions.lowest],
            threshold_label="where the model is sure",
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
            lines += [IMAGE_ODDITIES[k].replace("images", "image") for k in _odd_of(self.images, i)]
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

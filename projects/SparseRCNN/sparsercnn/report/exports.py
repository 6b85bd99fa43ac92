"""Detections in the formats of other people's tools."""

import csv
import json
import os
from collections import Counter
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import yaml

from ..errors import ConfigError
from ..files import write_atomically, write_json
from .records import slices

__all__ = ["FORMATS", "export"]


def export(kinds, truth, detections, folder, model="model"):
    """Write detections.

    Args:
        kinds (sequence[str]): names of FORMATS.
        truth (Truth): images and classes; objects are not written.
        detections (Detections): what to write.
        folder (Path): made if need be.
        model (str): its name, in Label Studio's tasks.

    Returns:
        list[Path]: files and folders that were written.

    Raises:
        ConfigError: a format is unknown.
    """
    unknown = [x for x in kinds if x not in FORMATS]
    if unknown:
        raise ConfigError(f"There is no format '{unknown[0]}'; choose of {', '.join(FORMATS)}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [FORMATS[kind](truth, detections, folder, model) for kind in kinds]


def _relative_names(files):
    """Paths of images (list[str]) from the folder that they have in common, with slashes."""
    root = _common_folder(files)
    return [Path(os.path.relpath(os.path.abspath(x), root)).as_posix() for x in files]


def _common_folder(files):
    folders = [os.path.dirname(os.path.abspath(x)) for x in files]
    return os.path.commonpath(folders) if folders else ""


def _coco(truth, detections, folder, model):
    """COCO's results, as its evaluation reads them."""
    sides = np.concatenate(
        [detections.boxes[:, :2], detections.boxes[:, 2:] - detections.boxes[:, :2]], axis=1
    )
    columns = (detections.image, detections.classes, sides, detections.scores)
    results = [
        {
            "image_id": truth.image_ids[i],
            "category_id": truth.category_ids[k],
            "bbox": box,
            "score": score,
        }
        for i, k, box, score in zip(*(x.tolist() for x in columns), strict=True)
    ]
    write_json(folder / "coco_results.json", results)
    return folder / "coco_results.json"


def _inside(truth, detections):
    """For each image its detections: class, xyxy inside of the image, and score; none without
    area."""
    for i, own in enumerate(slices(detections.image, truth.num_images)):
        limits = np.tile(truth.sizes[i], 2)
        found = []
        for n in range(own.start, own.stop):
            x0, y0, x1, y1 = detections.boxes[n].clip(0, limits).tolist()
            if x1 > x0 and y1 > y0:
                score = float(detections.scores[n])
                found.append((int(detections.classes[n]), (x0, y0, x1, y1), score))
        yield found


def _yolo(truth, detections, folder, model):
    """Ultralytics' labels, without scores, which labels do not have; with a ``data.yaml``."""
    root, names = folder / "yolo", _relative_names(truth.files)
    labels = [Path(name).with_suffix(".txt") for name in names]
    if len(set(labels)) < len(labels):
        twice = Counter(labels).most_common(1)[0][0]
        raise ConfigError(
            f"YOLO's labels cannot be written: two images have the same path but for the ending, "
            f"and both would have the labels {twice}. Choose another format of --export."
        )
    for i, found in enumerate(_inside(truth, detections)):
        path = root / "labels" / labels[i]
        width, height = truth.sizes[i].tolist()
        lines = [
            f"{k} {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
            f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f}\n"
            for k, (x0, y0, x1, y1), _ in found
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
    content = {"train": "images", "val": "images", "names": dict(enumerate(truth.class_names))}
    with write_atomically(root / "data.yaml", "w") as file:
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)
    return root


_COLUMNS = ("filename", "width", "height", "class", "score", "xmin", "ymin", "xmax", "ymax")


def _csv(truth, detections, folder, model):
    """A row for each detection; one without class for an image without any."""
    names = _relative_names(truth.files)
    with write_atomically(folder / "detections.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for i, found in enumerate(_inside(truth, detections)):
            image = [names[i], *truth.sizes[i].tolist()]
            for k, box, score in found:
                box = [f"{x:.3f}" for x in box]
                writer.writerow([*image, truth.class_names[k], f"{score:.6f}", *box])
            if not found:
                writer.writerow([*image, *[""] * 6])
    return folder / "detections.csv"


def _label_studio(truth, detections, folder, model):
    """Tasks with predictions, for import into a project with the labelling config beside them.

    Images are those of a local storage whose path is the folder of the images; Label Studio's
    LOCAL_FILES_DOCUMENT_ROOT is the folder that this is in.
    """
    names, storage = _relative_names(truth.files), os.path.basename(_common_folder(truth.files))
    tasks = []
    for i, found in enumerate(_inside(truth, detections)):
        width, height = truth.sizes[i].tolist()
        result = [
            {
                "id": f"{i}-{n}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": score,
                "value": {
                    "x": 100 * x0 / width,
                    "y": 100 * y0 / height,
                    "width": 100 * (x1 - x0) / width,
                    "height": 100 * (y1 - y0) / height,
                    "rotation": 0,
                    "rectanglelabels": [truth.class_names[k]],
                },
            }
            for n, (k, (x0, y0, x1, y1), score) in enumerate(found)
        ]
        mean = float(np.mean([x["score"] for x in result])) if result else 0.0
        prediction = {"model_version": model, "score": mean, "result": result}
        image = f"/data/local-files/?d={quote(f'{storage}/{names[i]}')}"
        tasks.append({"data": {"image": image}, "predictions": [prediction]})
    root = folder / "label_studio"
    root.mkdir(parents=True, exist_ok=True)
    with write_atomically(root / "tasks.json", "w") as file:
        json.dump(tasks, file, indent=1, ensure_ascii=False)
    labels = "\n".join(f"    <Label value={quoteattr(x)}/>" for x in truth.class_names)
    config = (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}\n'
        "  </RectangleLabels>\n</View>\n"
    )
    (root / "config.xml").write_text(config, encoding="utf-8")
    return root


FORMATS = {"coco": _coco, "yolo": _yolo, "csv": _csv, "label-studio": _label_studio}
"""Names of formats, and the functions that write them."""

"""Cityscapes' label maps of the 19 classes that are evaluated, from the annotations it ships."""

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from PIL import Image, ImageDraw
from tqdm import tqdm

from ..errors import DataError, abbreviate
from ..files import write_atomically
from .files import read_text
from .label_map import read_label_map

__all__ = ["NUM_IMAGES", "count_images", "make_train_ids", "missing_files"]

NUM_IMAGES = {"train": 2975, "val": 500}

_IGNORED = 255
_NUM_LABEL_IDS = 34
# Labels by name and by id, as train ids. Detectron2 has those that are evaluated.
_NOT_EVALUATED = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic",
    "ground", "parking", "rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan",
    "trailer",
)  # fmt: skip
_BY_NAME = {
    **dict.fromkeys(_NOT_EVALUATED, _IGNORED),
    **{x["name"]: x["trainId"] for x in CITYSCAPES_CATEGORIES},
    "license plate": None,  # not drawn, so that the car below it stays
}
_BY_ID = np.full(256, _IGNORED, dtype=np.uint8)
_BY_ID[[x["id"] for x in CITYSCAPES_CATEGORIES]] = [x["trainId"] for x in CITYSCAPES_CATEGORIES]

_IMAGE = "_leftImg8bit.png"
_POLYGONS, _LABEL_IDS, _INSTANCE_IDS = "polygons.json", "labelIds.png", "instanceIds.png"
_SHOWN = 3  # missing files named in a message


def count_images(root, split):
    """How many images ROOT/leftImg8bit/SPLIT has; :data:`NUM_IMAGES` says how many it should."""
    return len(_images(root, split))


def missing_files(root, splits):
    """What training and evaluation read but a copy of Cityscapes lacks.

    Args:
        root (str): the folder with leftImg8bit and gtFine.
        splits (sequence[str]): of train, val and test.

    Returns:
        list[str]: one line for each missing folder or kind of file; [] if nothing is missing.
    """
    lines = []
    for split in splits:
        folders = [os.path.join(root, kind, split) for kind in ("leftImg8bit", "gtFine")]
        absent = [folder for folder in folders if not os.path.isdir(folder)]
        lines += [f"folder {folder}, from {_archive(folder)}" for folder in absent]
        if absent:
            continue
        images = _images(root, split)
        if not images:
            lines.append(f"{folders[0]}/CITY/*{_IMAGE}, from {_archive(folders[0])}")
        for kind in (_POLYGONS, _LABEL_IDS, _INSTANCE_IDS):
            files = [_annotation(image, kind) for image in images]
            files = [file for file in files if not os.path.isfile(file)]
            if files:
                shown = abbreviate(files, _SHOWN)
                lines.append(f"{kind} of {len(files)} of {len(images)} images: {shown}")
    return lines


def make_train_ids(root, split, from_polygons=False, overwrite=False, num_workers=None):
    """Write ``*_gtFine_labelTrainIds.png`` beside the annotations of one split.

    Files are written atomically, and existing ones are kept, so that an interrupted run can be
    repeated.

    Args:
        root (str): the folder with leftImg8bit and gtFine.
        split (str): train, val or test.
        from_polygons (bool): draw the polygons, as Cityscapes' own scripts do. False: convert
            the maps of label ids, which those scripts have drawn in the same way.
        overwrite (bool): replace existing files.
        num_workers (int): threads; None: chosen for the machine.

    Returns:
        Counter: numbers of files "written" and "kept".

    Raises:
        DataError: an annotation that cannot be used; the message names it.
        OSError: a file cannot be read or written.
    """
    images = _images(root, split)
    make = partial(_make_one, from_polygons=from_polygons, overwrite=overwrite)
    with ThreadPoolExecutor(num_workers) as pool:
        results = pool.map(make, images)
        return Counter(tqdm(results, total=len(images), desc=split, unit="image"))


def _archive(folder):
    kind = "leftImg8bit" if "leftImg8bit" in folder else "gtFine"
    return f"{kind}_trainvaltest.zip of www.cityscapes-dataset.com"


def _images(root, split):
    return sorted(str(x) for x in Path(root, "leftImg8bit", split).glob(f"*/*{_IMAGE}"))


def _annotation(image, kind):
    *root, _, split, city, name = Path(image).parts
    stem = name.removesuffix(_IMAGE)
    return str(Path(*root, "gtFine", split, city, f"{stem}_gtFine_{kind}"))


def _make_one(image, from_polygons, overwrite):
    target = _annotation(image, "labelTrainIds.png")
    if os.path.exists(target) and not overwrite:
        return "kept"
    if from_polygons:
        train_ids = _draw(_annotation(image, _POLYGONS))
    else:
        path = _annotation(image, _LABEL_IDS)
        label_ids = read_label_map(path)
        if label_ids.max() >= _NUM_LABEL_IDS:
            raise DataError(f"{path}: {label_ids.max()} is not a label id of Cityscapes (0 to 33).")
        train_ids = Image.fromarray(_BY_ID[label_ids])
    with write_atomically(target) as file:
        train_ids.save(file, format="png")
    return "written"


def _draw(path):
    """Draw the polygons in their order; later ones cover earlier ones."""
    try:
        content = json.loads(read_text(path))
        canvas = Image.new("L", (content["imgWidth"], content["imgHeight"]), _IGNORED)
        drawing = ImageDraw.Draw(canvas)
        for item in content["objects"]:
            train_id = _train_id(item["label"])
            if train_id is not None and not item.get("deleted"):
                corners = [tuple(corner) for corner in item["polygon"]]
                drawing.polygon(corners, fill=train_id)
    except DataError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not an annotation of Cityscapes: {error!r}") from error
    return canvas


def _train_id(label):
    # The suffix "group" marks objects that are too close to tell apart.
    return _BY_NAME[label if label in _BY_NAME else label.removesuffix("group")]

"""Conversion of CrowdHuman's annotations ("odgt", one json object per line) to COCO's format."""

import json
import os

from tqdm import tqdm

from ..errors import DataError
from ..image_files import UNREADABLE, open_image, upright_size
from .coco import add_image, add_object, new_annotations
from .files import read_text, write_json
from .validation import box_problem

__all__ = ["convert_crowdhuman", "missing_files"]


def missing_files(root, splits=("train", "val")):
    """Files and folders that :func:`convert_crowdhuman` needs but `root` lacks.

    Args:
        root (str): the folder of the data set.
        splits (sequence[str]): "train", "val" or both.

    Returns:
        list[str]: their paths.
    """
    needed = []
    for split in splits:
        needed.append(os.path.join(root, f"annotation_{split}.odgt"))
        needed.append(os.path.join(root, f"CrowdHuman_{split}"))
    return [path for path in needed if not os.path.exists(path)]


def convert_crowdhuman(root, split):
    """Write ``annotations/SPLIT.json`` from ``annotation_SPLIT.odgt`` and ``CrowdHuman_SPLIT/``.

    Boxes are those of the full body ("fbox") and may reach beyond the image. Objects tagged "mask"
    or "ignore" become crowd. Boxes without size or entirely outside of the image are left out.

    Args:
        root (str): the folder of the data set.
        split (str): "train" or "val".

    Returns:
        dict[str, int]: counts of "images", "persons", "ignored" and "left out" boxes.

    Raises:
        DataError: a file cannot be read, or a line is malformed.
    """
    path = os.path.join(root, f"annotation_{split}.odgt")
    # Not splitlines(): json may have other separators of lines in a string.
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    categories = [{"id": 1, "name": "person"}]
    content = new_annotations(f"CrowdHuman {split}, full bodies", categories)
    counts = {"images": 0, "persons": 0, "ignored": 0, "left out": 0}
    for number, line in enumerate(tqdm(lines, desc=f"CrowdHuman {split}"), start=1):
        name, objects = _parse(path, number, line)
        file_name = f"{name}.jpg"
        width, height = _size(os.path.join(root, f"CrowdHuman_{split}", file_name))
        add_image(content, number, file_name, width, height)
        counts["images"] += 1
        for box, is_ignored in objects:
            if box_problem(box, width, height):
                counts["left out"] += 1
                continue
            counts["ignored" if is_ignored else "persons"] += 1
            area = box[2] * box[3]
            add_object(content, number, 1, box, area=area, iscrowd=int(is_ignored))
    os.makedirs(os.path.join(root, "annotations"), exist_ok=True)
    write_json(os.path.join(root, "annotations", f"{split}.json"), content)
    return counts


def _size(path):
    try:
        with open_image(path) as image:
            return upright_size(image)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {error}. Unpack or download it again.") from error


def _parse(path, number, line):
    """The name of the image, and ([x, y, width, height], is ignored) for each object."""
    try:
        entry = json.loads(line)
        objects = []
        for item in entry["gtboxes"]:
            box = [float(x) for x in item["fbox"]]
            if len(box) != 4:
                raise ValueError(f"fbox has {len(box)} numbers")
            is_ignored = item["tag"] != "person" or item.get("extra", {}).get("ignore", 0) == 1
            objects.append((box, is_ignored))
        return entry["ID"], objects
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}, line {number}: not in CrowdHuman's format: {error!r}. Download it again."
        ) from error

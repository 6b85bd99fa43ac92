"""Data sets of LabelMe: a json file of shapes per image."""

import json
import math

from ...data.coco_schema import read_json
from ...errors import DataError, abbreviate
from ..splits import split_name
from .folder import Source, has_keys, searchable
from .tables import make_splits

__all__ = ["find", "read"]

# The box of such a shape is around its points; "rotation" is a rotated box of X-AnyLabeling.
_NUM_POINTS = {"rectangle": (2, 4), "rotation": (4,), "mask": (2,)}


def find(folder):
    """The annotation files (list[Path]); other json files are left out."""
    return [path for path in folder.with_suffix(".json") if _is_labelme(path)]


def read(folder, files, images=None):
    """
    Args:
        folder (Folder): the data.
        files (list[Path]): from :func:`find`.
        images (str): not for this format, whose files give the places of the images.

    Returns:
        Source: a split for each folder of annotations.

    Raises:
        DataError: a file is malformed.
    """
    if images:
        raise DataError("--images is not for LabelMe, whose files say where the images are.")
    parts, notes, without_box = {}, [], []
    for path in files:
        file_name, row = _read_file(folder, path, without_box)
        rows = parts.setdefault(split_name(path.parent.relative_to(folder.path)), {})
        if file_name in rows:
            raise DataError(f"{path}: another file already has the shapes of {file_name}.")
        rows[file_name] = row
    if without_box:
        notes.append(f"Shapes that have no box are left out: {abbreviate(without_box)}.")
    known = {name for rows in parts.values() for name in rows}
    unknown = [x for x in folder.images if x.relative_to(folder.path).as_posix() not in known]
    if unknown:
        notes.append(
            f"{len(unknown)} images have no json file and are left out: {abbreviate(unknown, 3)}."
        )
    return Source("LabelMe json", make_splits(parts, folder.path), notes)


def _is_labelme(path):
    data = searchable(path)
    if not has_keys(data, "shapes"):
        return False
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return True
    return isinstance(content, dict) and {"shapes", "imagePath"} <= content.keys()


def _read_file(folder, path, without_box):
    content = read_json(path)
    if not isinstance(content["shapes"], list):
        raise DataError(f'{path}: "shapes" must be a list. Correct the file, or remove it.')
    size = (content.get("imageWidth"), content.get("imageHeight"))
    objects = []
    for number, shape in enumerate(content["shapes"], start=1):
        try:
            name, kind = str(shape["label"]), shape.get("shape_type") or "polygon"
            box = _box(kind, [(float(x), float(y)) for x, y in shape["points"]])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}: shape number {number} needs a label and points of two numbers: {error!r}."
            ) from error
        if box is None:
            without_box.append(f"{path.name} number {number} ({kind})")
        else:
            objects.append((name, box))
    file_name = folder.find_image(str(content["imagePath"]), path)
    return file_name, (size if all(size) else None, objects)


def _box(kind, points):
    """Corners [x0, y0, x1, y1] of the box around a shape; None if it has no area."""
    if kind == "circle" and len(points) == 2:  # its centre, and a point of its edge
        (x, y), radius = points[0], math.dist(*points)
        return [x - radius, y - radius, x + radius, y + radius]
    if len(points) in _NUM_POINTS.get(kind, ()) or (kind == "polygon" and len(points) > 2):
        xs, ys = zip(*points, strict=True)
        last = int(kind == "mask")  # a mask's points are its first and its last pixel
        return [min(xs), min(ys), max(xs) + last, max(ys) + last]
    return None

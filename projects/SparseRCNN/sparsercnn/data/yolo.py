"""Conversion of object annotations in YOLO's layout to COCO's format.

The layout is that of Ultralytics: a ``data.yaml`` with the class names and the place of each split,
and for each image a text file with a line ``CLASS X Y WIDTH HEIGHT`` per object, in fractions of
the image, (X, Y) being the box's centre.
"""

import math
import os
from pathlib import Path

import yaml

from ..errors import DataError
from ..image_files import IMAGE_SUFFIXES, image_size
from .coco import add_image, add_object, complete, new_annotations
from .files import files_below, read_text

__all__ = ["SPLITS", "convert_yolo", "convert_yolo_images", "label_file", "read_yolo_yaml"]

SPLITS = ("train", "val", "test")
"""Keys of ``data.yaml`` that give the place of images."""


def read_yolo_yaml(path, only=SPLITS):
    """Read a ``data.yaml``.

    Args:
        path (str | Path): the file.
        only (sequence[str]): the splits whose images are looked for.

    Returns:
        tuple[list[str], dict[str, list[str]]]: the class names in the order of their numbers, and
        the image files of each split of `only` that the file gives.

    Raises:
        FileNotFoundError: the file or the images of such a split are missing.
        DataError: the file has no names, or no split; or its labels have key points, which would
            be taken for polygons.
    """
    names, places = _read_description(Path(path))
    return names, {split: _images_of(path, places[split]) for split in only if split in places}


def _read_description(path):
    """The class names (list[str]), and of each split what :func:`_images_of` takes."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not valid YAML. Correct it, and save it in UTF-8; between double quotes, a "
            f"backslash must be written twice: {error}"
        ) from error
    if not isinstance(content, dict) or "names" not in content:
        raise DataError(f"{path}: a data.yaml needs 'names', the names of the classes.")
    if content.get("kpt_shape"):
        raise DataError(
            f"{path}: its labels have key points (kpt_shape), which are not read. Keep CLASS X Y "
            "WIDTH HEIGHT of each line, and remove kpt_shape."
        )
    names = _class_names(path, content["names"])
    root = path.parent / os.path.expanduser(str(content.get("path") or ""))
    splits = {}
    for split in SPLITS:
        places = content.get(split) or []
        places = places if isinstance(places, list) else [places]
        if places:
            splits[split] = [_tries(path, root, str(place)) for place in places]
    if not splits:
        raise DataError(f"{path}: it gives no images; it needs 'train', such as: train: images")
    return names, splits


def convert_yolo(path, split):
    """Convert one split of a ``data.yaml`` to COCO's format; see :func:`convert_yolo_images`.

    Raises:
        DataError: there is no such split, or see :func:`read_yolo_yaml`.
    """
    names, places = _read_description(Path(path))
    if split not in places:
        raise DataError(f"{path}: there is no split '{split}'; there are: {', '.join(places)}.")
    images = _images_of(path, places[split])
    return convert_yolo_images(images, names, Path(path).parent, str(path))


def convert_yolo_images(images, class_names, root, source):
    """Convert the labels of images to COCO's format.

    A line with more than five numbers is a polygon, of which the enclosing box is taken. An image
    without a label file has no objects.

    Args:
        images (list[str]): the image files.
        class_names (list[str]): names of the categories with ids 1, 2, ...; class 0 is the first.
        root (str | Path): folder from which "file_name" counts; it is absolute for images outside.
        source (str): where the data is from, for the description.

    Returns:
        dict: COCO's format, image ids from 1 in the order of `images`.

    Raises:
        DataError: a line is malformed, or no image has a label file.
    """
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)]
    content = new_annotations(f"{source}, converted from YOLO", categories)
    num_labelled = 0
    for image_id, image in enumerate(images, start=1):
        width, height = image_size(image)
        add_image(content, image_id, _relative(image, root), width, height)
        labels = label_file(image)
        if not os.path.exists(labels):
            continue
        num_labelled += 1
        for class_index, box in _objects(labels, len(class_names)):
            x, y, w, h = box
            pixels = [x * width, y * height, w * width, h * height]
            add_object(content, image_id, class_index + 1, [round(v, 3) for v in pixels])
    if not num_labelled:
        expected = label_file(images[0]) if images else "of any image"
        raise DataError(f"{source}: no image has a label file; the first would be {expected}.")
    return complete(content)


def label_file(image):
    """The label file of an image (str), existing or not: in ``labels`` if the image is below a
    folder ``images``, or else beside it."""
    beside = os.path.splitext(str(image))[0] + ".txt"
    before, separator, after = beside.rpartition(f"{os.sep}images{os.sep}")
    apart = f"{before}{os.sep}labels{os.sep}{after}" if separator else beside
    return beside if not os.path.exists(apart) and os.path.exists(beside) else apart


def _class_names(path, names):
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{path}: the numbers of 'names' must be 0, 1, ... without gaps.")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or len(set(map(str, names))) < len(names):
        raise DataError(f"{path}: 'names' must list the names of the classes, each once.")
    return [str(name) for name in names]


def _tries(path, root, place):
    # Exported files often say ../train/images where train/images is meant.
    tries = [root / place, path.parent / place, path.parent / place.removeprefix("../")]
    return place, [Path(os.path.abspath(x)) for x in tries]


def _images_of(path, places):
    return [x for place, tries in places for x in _images_at(path, place, tries)]


def _images_at(path, place, tries):
    """Image files of a folder, or those that a text file lists.

    Links are kept: the labels are beside the link, not beside the file that it leads to.
    """
    found = next((x for x in tries if x.exists()), None)
    if found is None:
        text = " or ".join(dict.fromkeys(str(x) for x in tries))
        raise FileNotFoundError(f"{path}: '{place}' is missing: there is no {text}.")
    if found.is_dir():
        inside = (x for x in files_below(found) if x.suffix.lower() in IMAGE_SUFFIXES)
        images = sorted(map(str, inside))
    else:
        lines = read_text(found).splitlines()
        # A path counts from the folder of the list, as in Ultralytics.
        images = [os.path.abspath(found.parent / x.strip()) for x in lines if x.strip()]
    if not images:
        raise DataError(f"{path}: {found} has no images.")
    return images


def _relative(image, root):
    image, root = os.path.abspath(image), os.path.abspath(root)
    inside = image.startswith(root + os.sep)
    return os.path.relpath(image, root) if inside else image


def _objects(path, num_classes):
    """(class index, [x, y, width, height] in fractions, (x, y) the corner) of each line."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            yield _read_line(f"{path}, line {number}", line, num_classes)


def _read_line(where, line, num_classes):
    try:
        numbers = [float(x) for x in line.split()]
    except ValueError as error:
        raise DataError(f"{where}: not numbers: {line.strip()}") from error
    if len(numbers) != 5 and (len(numbers) < 7 or len(numbers) % 2 == 0):
        raise DataError(
            f"{where}: has {len(numbers)} numbers. A box is CLASS X Y WIDTH HEIGHT, a polygon "
            "CLASS X1 Y1 X2 Y2 X3 Y3 ..."
        )
    index, values = numbers[0], numbers[1:]
    if not index.is_integer() or not 0 <= index < num_classes:
        raise DataError(f"{where}: class {index:g} is not from 0 to {num_classes - 1}.")
    if not all(math.isfinite(x) and -0.5 <= x <= 1.5 for x in values):
        raise DataError(
            f"{where}: YOLO's boxes are fractions of the image, from 0 to 1, not pixels: "
            f"{line.strip()}"
        )
    if len(values) > 4:
        xs, ys = values[::2], values[1::2]
        return int(index), [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    x, y, w, h = values
    return int(index), [x - w / 2, y - h / 2, w, h]

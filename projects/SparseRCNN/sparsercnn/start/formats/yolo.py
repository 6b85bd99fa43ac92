"""Data sets in YOLO's format: a text file of fractions per image, with or without data.yaml."""

import os

import yaml

from ...data.files import read_text
from ...data.yolo import convert_yolo_images, label_file, read_yolo_yaml
from ...errors import DataError
from ..splits import split_name
from .folder import Source, Split, has_keys, searchable

__all__ = ["find", "read"]

_NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "names.txt")


def find(folder):
    """The ``data.yaml`` (list of one Path), or without it the label files."""
    described = [x for x in folder.with_suffix(".yaml", ".yml") if _is_description(x)]
    if described:
        return described
    if not folder.given.is_dir():
        return []
    labels = {label_file(image) for image in folder.images}
    files = [x for x in folder.with_suffix(".txt") if str(x) in labels]
    return files if any(map(_has_boxes, files)) else []


def read(folder, files, images=None):
    """
    Args:
        folder (Folder): the data.
        files (list[Path]): from :func:`find`.
        images (str): not for this format, whose label files lie by the images.

    Returns:
        Source: a split for each that ``data.yaml`` gives; without it, one for each folder of
        images.

    Raises:
        DataError: see :func:`~sparsercnn.data.yolo.read_yolo_yaml`; or there are several.
    """
    if images:
        raise DataError("--images is not for YOLO: label files are found from the images' places.")
    if files[0].suffix == ".txt":
        return _read_folders(folder, files)
    if len(files) > 1:
        raise DataError(f"{folder.path} has {files[0].name} and {files[1]}. Give one as DATA.")
    notes = []
    try:
        names, splits = read_yolo_yaml(files[0])
    except (DataError, FileNotFoundError) as error:
        # Exported files often name a test that is not there; any other error comes again.
        names, splits = read_yolo_yaml(files[0], ("train", "val"))
        notes.append(f"The split test is left out: {error}")
    return _source(files[0].parent, names, splits, notes)


def _read_folders(folder, files):
    lists = [
        x for x in folder.files if x.name in _NAME_FILES and str(x) not in set(map(str, files))
    ]
    if lists:
        names = _same_lines(lists)
        note = f"The classes are the lines of {lists[0]}."
    else:
        names = [f"class {i}" for i in range(_highest_class(files) + 1)]
        note = (
            f"Nothing names the classes: they are called class 0 to class {len(names) - 1}. "
            f"{folder.path / _NAME_FILES[0]} with a name per line would name them."
        )
    splits = {}
    for image in folder.images:
        name = split_name(image.parent.relative_to(folder.path))
        splits.setdefault(name, []).append(str(image))
    return _source(folder.path, names, splits, [note])


def _same_lines(files):
    """The lines of each of some files: LabelImg writes one by each folder of labels, in the order
    in which the classes were first used there."""
    texts = [read_text(path).splitlines() for path in files]
    first, *others = ([x.strip() for x in lines if x.strip()] for lines in texts)
    for path, other in zip(files[1:], others, strict=True):
        if other != first:
            raise DataError(
                f"{files[0]} and {path} name different classes, or in another order, so that a "
                "number in the label files does not tell the class. Make the numbers of all labels "
                "those of one list, and remove the other lists."
            )
    return first


def _source(root, names, splits, notes):
    found = {}
    for name, images in splits.items():
        without = sum(not os.path.exists(label_file(image)) for image in images)
        if without:
            notes.append(f"{without} images of {name} have no label file: they have no objects.")

        def load(images=images):
            return convert_yolo_images(images, names, root, str(root))

        found[name] = Split(str(root), load)
    return Source("YOLO", found, notes)


def _is_description(path):
    data = searchable(path)
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError):
        return has_keys(data, "names", "train")
    return isinstance(content, dict) and "names" in content and "train" in content


def _has_boxes(path):
    """Whether the first line is a class and fractions."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    try:
        numbers = [float(x) for x in lines[0].split()] if lines else []
    except ValueError:
        return False
    return len(numbers) >= 5 and numbers[0].is_integer()


def _highest_class(files):
    highest = 0
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            try:
                highest = max(highest, int(float(line.split()[0]))) if line.strip() else highest
            except (ValueError, OverflowError) as error:
                raise DataError(f"{path}, line {number}: not numbers: {line}") from error
    return highest

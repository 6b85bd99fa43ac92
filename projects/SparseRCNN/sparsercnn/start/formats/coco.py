"""Data sets in COCO's json format."""

import json
import os
from pathlib import Path

from ...data.coco import complete, read_coco
from ...errors import DataError
from .folder import Source, Split, has_keys, searchable

__all__ = ["find", "read"]

_MOST_FILES = 40  # a folder of more json files has one per image, which is another format


def find(folder):
    """The annotation files (list[Path]) in COCO's format."""
    files = folder.with_suffix(".json")
    largest = sorted(files, key=lambda path: path.stat().st_size, reverse=True)[:_MOST_FILES]
    return sorted(path for path in largest if _is_coco(path))


def read(folder, files, images=None):
    """
    Args:
        folder (Folder): the data.
        files (list[Path]): from :func:`find`.
        images (str): folder of the images; None: it is looked for.

    Returns:
        Source: a split for each file, named after it.

    Raises:
        DataError: no folder holds the images of a file.
    """
    splits = {}
    for name, path in _names(folder, files).items():
        content = read_coco(path)
        root = os.path.abspath(images) if images else _image_root(folder, path, content)
        splits[name] = Split(root, lambda x=content: complete(x), f"coco:{path}@{root}")
    return Source("COCO json", splits)


def _is_coco(path):
    data = searchable(path)
    # Of a file that was cut off, one of the two may be left.
    if not (has_keys(data, "images", "file_name") or has_keys(data, "annotations", "bbox")):
        return False
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return True
    keys = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(x), list) for x in keys)


def _names(folder, files):
    """Name of the split -> file: the stem, with the folder's name where stems are the same."""
    stems = [path.name.split(".")[0] for path in files]
    if len(set(stems)) < len(stems):
        stems = [path.relative_to(folder.path).with_suffix("").as_posix() for path in files]
    return dict(zip(stems, files, strict=True))


def _image_root(folder, path, content):
    """The folder from which the names of the images count."""
    names = [image["file_name"] for image in content["images"]]
    first = Path(names[0])
    ends = {x for x in folder.images if x.parts[-len(first.parts) :] == first.parts}
    places = [path.parent, path.parent / "images", folder.path, folder.path / "images"]
    places += sorted(x.parents[len(first.parts) - 1] for x in ends)
    counts = [sum((place / name).is_file() for name in names) for place in places]
    if not max(counts, default=0):
        raise DataError(
            f"{path}: its images, such as {names[0]}, are not below {folder.path}. Give their "
            "folder by --images."
        )
    return str(places[counts.index(max(counts))])

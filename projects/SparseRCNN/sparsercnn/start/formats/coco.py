"""Data sets in COCO's json format."""

import json
import os
from collections import Counter
from pathlib import Path

from ...data.coco import complete, read_coco
from ...errors import DataError
from ..splits import split_name, split_role
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
    splits, notes = {}, []
    for name, path in folder.split_names(files).items():
        given = read_coco(path)
        content = _with_slashes(given, folder, images)
        root = os.path.abspath(images) if images else _image_root(folder, path, name, content)
        entry = f"coco:{path}@{root}" if content is given else None
        if entry is None:
            notes.append(f"{path}: backslashes in names of images are taken for slashes.")
        splits[name] = Split(root, lambda x=content: complete(x), entry)
    return Source("COCO json", splits, notes)


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
    if not isinstance(content, dict) or not all(isinstance(content.get(x), list) for x in keys):
        return False
    objects = content["annotations"]  # without boxes, they are captions or segments
    return not objects or any(isinstance(x, dict) and "bbox" in x for x in objects)


def _with_slashes(content, folder, images):
    """`content` itself, or a copy in which names that a program wrote on Windows have slashes."""
    if not any("\\" in image["file_name"] for image in content["images"]):
        return content
    known = {path.name for path in folder.images}  # a name may have a backslash where this runs

    def is_file(name):
        return os.path.isfile(os.path.join(images, name)) if images else Path(name).name in known

    names = [image["file_name"] for image in content["images"]]
    names = [x if is_file(x) else x.replace("\\", "/") for x in names]
    renamed = [{**image, "file_name": x} for image, x in zip(content["images"], names, strict=True)]
    return content if renamed == content["images"] else {**content, "images": renamed}


def _image_root(folder, path, name, content):
    """The folder from which the names of the images of a split count: where most are found."""
    names = [image["file_name"] for image in content["images"]]
    usual = [path.parent, path.parent / "images", folder.path, folder.path / "images"]
    counts = {place: sum((place / name).is_file() for name in names) for place in usual}
    ends = {Path(name).parts for name in names if not os.path.isabs(name)}
    lengths = {len(parts) for parts in ends}
    found = Counter(
        image.parents[n - 1] for image in folder.images for n in lengths if image.parts[-n:] in ends
    )
    counts = {**found, **counts}
    most = max(counts.values())
    if not most:
        raise DataError(
            f"{path}: its images, such as {names[0]}, are not below {folder.path}. Give their "
            "folder by --images."
        )
    # Numbered images have the same names in the folders of all splits.
    places = [x for x in dict.fromkeys([*usual, *sorted(found)]) if counts[x] >= most / 2]
    role = split_role(name)
    same_role = [x for x in places if role and _role(folder, x) == role]
    places = same_role or places
    most = max(map(counts.get, places))
    best, *others = [x for x in places if counts[x] == most]
    if others and best not in usual:
        raise DataError(
            f"{path}: its images, such as {names[0]}, may be those in {best} or {others[0]}. Name "
            "the folder as the split, leave one, or give it by --images."
        )
    return str(best)


def _role(folder, place):
    inside = place.is_relative_to(folder.path)
    return split_role(split_name(place.relative_to(folder.path))) if inside else None

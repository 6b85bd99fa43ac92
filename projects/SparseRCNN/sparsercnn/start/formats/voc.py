"""Data sets in PASCAL VOC's format: one XML file per image."""

import os

from ...data.voc import (
    convert_voc,
    convert_voc_files,
    read_voc_class_names,
    voc_class_names,
    voc_names_in,
    voc_root,
    voc_splits,
)
from ...errors import DataError
from ..splits import split_name
from .folder import Folder, Source, Split

__all__ = ["find", "read"]


def find(folder):
    """The annotation files (list[Path]) of a folder, and the malformed XML files beside them."""
    files = folder.with_suffix(".xml") if folder.given.is_dir() else []
    roots = {path: voc_root(path) for path in files}
    if "annotation" not in roots.values():
        return []
    return [path for path, root in roots.items() if root in ("annotation", None)]


def read(folder, files, images=None):
    """
    Args:
        folder (Folder): the data.
        files (list[Path]): from :func:`find`.
        images (str): folder of the images; None: it is looked for.

    Returns:
        Source: in VOC's layout, a split for each file in ImageSets/Main; otherwise one for each
        folder of annotations.

    Raises:
        DataError: an annotation cannot be read.
    """
    roots = {path.parent.parent for path in files}
    for root in roots if len(roots) == 1 and not images else ():
        lists = root / "ImageSets" / "Main"
        if lists.is_dir() and voc_splits(str(root)) and (root / "JPEGImages").is_dir():
            return _read_layout(root)
    return _read_files(folder, files, images)


def _read_layout(root):
    splits = {}
    for name in voc_splits(str(root)):

        def load(name=name):
            return convert_voc(str(root), name, voc_class_names(str(root), name))[0]

        splits[name] = Split(str(root / "JPEGImages"), load, f"voc:{root}@{name}")
    return Source("Pascal VOC", splits)


def _read_files(folder, files, images):
    image_root = os.path.abspath(images) if images else str(folder.path)
    by_stem = {}
    for path in Folder(images).images if images else folder.images:
        by_stem.setdefault(path.stem, []).append(path)
    class_names = read_voc_class_names(str(folder.path)) or sorted(voc_names_in(map(str, files)))
    if not class_names:
        raise DataError(f"{folder.path}: no XML file has an object.")
    parts = {}
    for path in files:
        name = split_name(path.parent.relative_to(folder.path))
        parts.setdefault(name, []).append((str(path), _image_of(path, by_stem, image_root)))
    splits = {}
    for name, pairs in parts.items():

        def load(pairs=pairs):
            return convert_voc_files(pairs, image_root, class_names, str(folder.path))[0]

        splits[name] = Split(image_root, load)
    note = "There is no list in ImageSets/Main: every XML file is taken."
    return Source("Pascal VOC", splits, [note])


def _image_of(path, by_stem, image_root):
    """The image of an annotation, relative to the folder of all images."""
    found = by_stem.get(path.stem, [])
    beside = [x for x in found if x.parent == path.parent]
    if len(beside or found) > 1:
        raise DataError(f"{path}: its image may be {found[0]} or {found[1]}. Rename one.")
    return os.path.relpath((beside or found)[0], image_root) if found else f"{path.stem}.jpg"

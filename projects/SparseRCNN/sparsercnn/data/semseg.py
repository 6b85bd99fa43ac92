"""Data sets for semantic segmentation from a folder of images and a folder of label maps."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from ..errors import DataError, MissingFileError, abbreviate
from ..image_files import IMAGE_SUFFIXES, UNREADABLE, open_image, upright_size
from .classes import read_class_names
from .files import files_below
from .label_map import read_label_map

__all__ = ["IGNORE_LABEL", "load_semseg", "register_semseg", "semseg_class_names"]

IGNORE_LABEL = 255


def register_semseg(name, location):
    """Register an entry ``semseg:IMAGES@LABELS``: a folder of images and one of label PNGs.

    A label map holds the class of each pixel, 0 to K - 1, or 255 for ignored pixels. It belongs to
    the image of the same name without extension, in the corresponding subfolder.

    Args:
        name (str): the whole entry.
        location (str): the part after the colon.

    Raises:
        DataError: the entry is malformed, or see :func:`semseg_class_names`.
        MissingFileError: a folder is missing.
    """
    image_root, label_root = _split_location(name, location)
    class_names = semseg_class_names(label_root)
    DatasetCatalog.register(name, lambda: load_semseg(image_root, label_root))
    MetadataCatalog.get(name).set(
        image_root=image_root,
        sem_seg_root=label_root,
        evaluator_type="sem_seg",
        stuff_classes=class_names,
        ignore_label=IGNORE_LABEL,
    )


def _split_location(name, location):
    parts = location.split("@")  # the names of the folders may contain another @
    splits = [("@".join(parts[:i]), "@".join(parts[i:])) for i in range(1, len(parts))]
    splits = [split for split in splits if all(split)]
    if not splits:
        raise DataError(
            f"'{name}': an entry for segmentation must have the form semseg:IMAGES@LABELS."
        )
    existing = [split for split in splits if all(os.path.isdir(folder) for folder in split)]
    if existing:
        return existing[0]
    missing = [folder for folder in splits[-1] if not os.path.isdir(folder)]
    raise MissingFileError(f"'{name}': there is no folder {' and no folder '.join(missing)}.")


def semseg_class_names(label_root):
    """The classes of a folder of label maps.

    Without a ``classes.txt``, each process decodes every label map at its start: about 100 maps of
    2 megapixels per second.

    Args:
        label_root (str): the folder.

    Returns:
        list[str]: the lines of ``classes.txt`` in the folder or its parent. Without that file,
        "class 0" to "class K - 1" for the values 0 to K - 1 that occur.

    Raises:
        DataError: ``classes.txt`` has no class, a class twice, or more than 255; or the values that
            occur, except 255, are not 0 to K - 1 with K at least 2; or a label map cannot be read.
    """
    folder = os.path.abspath(label_root)
    for path in (os.path.join(x, "classes.txt") for x in (folder, os.path.dirname(folder))):
        if os.path.exists(path):
            names = read_class_names(path)
            if len(names) > IGNORE_LABEL:
                raise DataError(
                    f"{path}: has {len(names)} classes; label maps can hold at most "
                    f"{IGNORE_LABEL}, since {IGNORE_LABEL} marks ignored pixels."
                )
            return names
    values = _values_found(label_root)
    if values != list(range(max(len(values), 2))) or len(values) > IGNORE_LABEL:
        raise DataError(
            f"{label_root}: the label maps hold the values {abbreviate(values, 20)} besides "
            f"{IGNORE_LABEL}; they must be 0 to K - 1, with K from 2 to {IGNORE_LABEL}. If some "
            "classes do not occur, list all classes in "
            f"{os.path.join(label_root, 'classes.txt')}, one per line."
        )
    return [f"class {value}" for value in values]


def _values_found(label_root):
    paths = list(_files_by_stem(label_root, (".png",)).values())
    logging.getLogger(__name__).warning(
        f"{label_root} has no classes.txt: all {len(paths)} label maps are read to find the "
        "classes. To avoid that, add a classes.txt with one name per line, class 0 first."
    )
    values = set()
    with ThreadPoolExecutor() as pool:  # decoding and sorting release the interpreter lock
        found = pool.map(lambda path: np.unique(read_label_map(path)).tolist(), paths)
        for in_map in tqdm(found, total=len(paths), unit="label map"):
            values.update(in_map)
    return sorted(values - {IGNORE_LABEL})


def load_semseg(image_root, label_root):
    """Pair the images and label maps of two folders, reading only the headers of the files.

    Args:
        image_root, label_root (str): the folders.

    Returns:
        list[dict]: records in detectron2's format: "file_name", "sem_seg_file_name", "height",
        "width" and "image_id", the name. A record has a text "problem" if the image or the label
        map is missing, if a file cannot be read, or if the sizes differ.

    Raises:
        DataError: two images have the same name.
    """
    images = _files_by_stem(image_root, IMAGE_SUFFIXES)
    labels = _files_by_stem(label_root, (".png",))
    records = []
    for stem in sorted(images.keys() | labels.keys()):
        image, label = images.get(stem), labels.get(stem)
        record = {"image_id": stem, "file_name": image or label, "sem_seg_file_name": label}
        if label is None:
            record["problem"] = f"there is no label map {os.path.join(label_root, stem)}.png"
        elif image is None:
            record["problem"] = f"there is no image {os.path.join(image_root, stem)} of any type"
        else:
            record.update(_sizes(image, label))
        records.append(record)
    return records


def _files_by_stem(root, suffixes):
    files = {}
    for path in files_below(root):
        if path.suffix.lower() in suffixes:
            stem = str(path.relative_to(root).with_suffix(""))
            if stem in files:
                raise DataError(
                    f"{files[stem]} and {path} have the same name without extension. Rename or "
                    "remove one of them."
                )
            files[stem] = str(path)
    return files


def _sizes(image, label):
    try:
        width, height = _header_size(image)
    except UNREADABLE as error:
        return {"problem": f"cannot be read: {error}"}
    try:
        label_size = _header_size(label)
    except UNREADABLE as error:
        return {"problem": f"its label map {label} cannot be read: {error}"}
    if label_size != (width, height):
        return {
            "problem": f"it has {width} x {height} pixels, but its label map {label} has "
            f"{label_size[0]} x {label_size[1]}"
        }
    return {"height": height, "width": width}


def _header_size(path):
    with open_image(path) as image:
        # Without EXIF data in a PNG, Pillow would decode all pixels in search of it.
        return image.size if image.format == "PNG" else upright_size(image)

"""Conversion of object annotations in PASCAL VOC's layout to COCO's format."""

import contextlib
import logging
import math
import os
import re
from xml.etree import ElementTree

from ..errors import DataError, MissingFileError, abbreviate
from ..image_files import IMAGE_SUFFIXES, image_size
from .classes import read_class_names
from .coco import add_image, add_object, complete, new_annotations
from .files import read_bytes, read_text
from .validation import box_problem

__all__ = [
    "convert_voc",
    "convert_voc_files",
    "read_voc_class_names",
    "voc_class_names",
    "voc_names_in",
    "voc_root",
    "voc_splits",
]

# Encodings that Python knows, but its parser of XML does not.
_SEVERAL_BYTES = re.compile(
    rb"""<\?xml[^>]*encoding=["'](gb2312|gbk|gb18030|big5|shift_jis|euc-jp|euc-kr)["']""", re.I
)
_CLASS_FILES = ("classes.txt", "labels.txt")


def voc_class_names(root, used=None):
    """The classes of a data set in VOC's layout, the same for all its splits.

    Args:
        root (str): the folder with Annotations, ImageSets and JPEGImages.
        used (str): the split that is to be used, which must be correct; None: all must be.

    Returns:
        list[str]: the lines of ``classes.txt`` or ``labels.txt`` in `root`. Without either, the
        names that occur in the annotations of any split, sorted. What cannot be read of
        other splits than `used` is left out, with a warning.

    Raises:
        FileNotFoundError: a split or an annotation is missing.
        DataError: there are no classes, or an annotation cannot be read.
    """
    names = read_voc_class_names(root)
    if names:
        return names
    names, read = set(), set()
    for split in voc_splits(root):
        names |= _names_of_split(root, split, split == used or used is None, read)
    if not names:
        raise DataError(
            f"{root}: no split has an object, so the classes are unknown. List them in "
            f"{os.path.join(root, _CLASS_FILES[0])}, one per line."
        )
    return sorted(names)


def read_voc_class_names(root):
    """The lines of ``classes.txt`` or ``labels.txt`` in `root` (list[str]); None without either."""
    for file_name in _CLASS_FILES:
        path = os.path.join(root, file_name)
        if os.path.exists(path):
            return read_class_names(path)
    return None


def voc_names_in(paths):
    """Names of classes (set[str]) that occur in annotation files.

    Args:
        paths (iterable[str]): the files.

    Raises:
        DataError: one cannot be read.
    """
    return {name for path in paths for name, _, _ in _objects(path, _parse(path))}


def _names_of_split(root, split, is_used, read):
    """Names in the annotations of a split that are not in `read` (set of paths), which grows."""
    names = set()
    with _warn_of_unused(split, is_used):
        paths = {name: _annotation_path(root, name) for name in _image_names(root, split)}
        # The original data set has 60 lists for single classes, of the same images.
        paths = {name: path for name, path in paths.items() if path not in read}
        with _warn_of_unused(split, is_used):
            _require_annotations(root, split, paths)
        for path in paths.values():
            if os.path.exists(path):
                with _warn_of_unused(split, is_used):
                    names |= voc_names_in([path])
                    read.add(path)
    return names


@contextlib.contextmanager
def _warn_of_unused(split, is_used):
    """Let errors in a split that is not used become warnings."""
    try:
        yield
    except (OSError, DataError) as error:
        if is_used:
            raise
        logging.getLogger(__name__).warning(
            f"The split '{split}', which is not used here, has an error, and names of classes are "
            f"taken without it: {error}"
        )


def convert_voc(root, split, class_names):
    """Convert one split to COCO's format.

    A box of 1-based inclusive pixels (xmin, ymin, xmax, ymax) becomes the 0-based corners
    (xmin - 1, ymin - 1, xmax, ymax), as in detectron2. Boxes that reach beyond the border are
    clipped to the image. A box with xmax <= xmin or ymax <= ymin is taken for an accidental click,
    not for an object one pixel wide, and gets no size. Objects marked "difficult" become crowd:
    they are not trained on, and detections of them count neither as right nor as wrong.

    Args:
        root (str): the folder with Annotations, ImageSets and JPEGImages.
        split (str): name of a file in ImageSets/Main, without suffix.
        class_names (list[str]): names of the categories with ids 1, 2, ...

    Returns:
        tuple[dict, int]: COCO's format with image ids from 1 in the order of the split, and the
        number of clipped boxes, which have "annotated_bbox" too. Objects of other classes have
        category 0 and "category_name".

    Raises:
        MissingFileError: the split or an annotation is missing.
        DataError: an annotation cannot be read.
    """
    file_names = _image_files(root)
    paths = {name: _annotation_path(root, name) for name in _image_names(root, split)}
    _require_annotations(root, split, paths)
    files = [(path, file_names.get(name, f"{name}.jpg")) for name, path in paths.items()]
    image_root = os.path.join(root, "JPEGImages")
    return convert_voc_files(files, image_root, class_names, f"{root}, {split}")


def convert_voc_files(files, image_root, class_names, source):
    """Convert annotation files, wherever they are; see :func:`convert_voc`.

    Args:
        files (list[tuple[str, str]]): paths of an annotation, and of its image in `image_root`.
        image_root (str): folder of the images.
        class_names (list[str]): names of the categories with ids 1, 2, ...
        source (str): where the data is from, for the description.

    Returns:
        tuple[dict, int]: as from :func:`convert_voc`, image ids from 1 in the order of `files`.
    """
    category_ids = {name: number for number, name in enumerate(class_names, start=1)}
    categories = [{"id": number, "name": name} for name, number in category_ids.items()]
    content = new_annotations(f"{source}, converted from PASCAL VOC", categories)
    num_clipped = 0
    for image_id, (path, file_name) in enumerate(files, start=1):
        tree = _parse(path)
        width, height = _size(path, tree, os.path.join(image_root, file_name))
        add_image(content, image_id, file_name, width, height)
        for name, corners, is_difficult in _objects(path, tree):
            annotated = box = _to_coco(*corners)
            if not box_problem(box, width, height):
                box = _clip(box, width, height)
                num_clipped += box != annotated
            more = {} if name in category_ids else {"category_name": name}
            if box != annotated:
                more["annotated_bbox"] = annotated  # for tools/inspect_data.py
            category_id = category_ids.get(name, 0)
            add_object(content, image_id, category_id, box, iscrowd=is_difficult, **more)
    return complete(content), num_clipped


def _to_coco(xmin, ymin, xmax, ymax):
    width = xmax - xmin + 1 if xmax > xmin else 0.0
    height = ymax - ymin + 1 if ymax > ymin else 0.0
    return [xmin - 1, ymin - 1, width, height]


def voc_splits(root):
    """Names of the splits (list[str]), the files in ImageSets/Main, sorted.

    Raises:
        MissingFileError: there is no such folder.
    """
    folder = os.path.join(root, "ImageSets", "Main")
    if not os.path.isdir(folder):
        raise MissingFileError(
            f"{folder} is missing: a voc: entry needs a folder with Annotations, ImageSets/Main "
            "and JPEGImages."
        )
    files = sorted(x for x in os.listdir(folder) if x.endswith(".txt"))
    return [os.path.splitext(x)[0] for x in files]


def _image_names(root, split):
    path = _split_path(root, split)
    if not os.path.exists(path):
        raise MissingFileError(
            f"{path} is missing; existing splits: {', '.join(voc_splits(root))}."
        )
    names = [_image_name(root, x.strip()) for x in read_text(path).splitlines() if x.strip()]
    if not names:
        raise DataError(f"{path}: the file is empty.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: {twice} is listed more than once; remove the duplicates.")
    return names


def _image_name(root, line):
    # In the original data set, lists for a single class have a second column: -1, 0 or 1.
    name = re.sub(r"\s+(-1|0|1)$", "", line)
    is_whole = name != line and os.path.exists(_annotation_path(root, line))  # such as "Photo 1"
    return line if is_whole else name


def _require_annotations(root, split, paths):
    """Raise MissingFileError, with all names, if annotations (dict: name -> path) are missing."""
    missing = [name for name, path in paths.items() if not os.path.exists(path)]
    if missing:
        raise MissingFileError(
            f"{_split_path(root, split)} names {abbreviate(missing)}, but {paths[missing[0]]} does "
            "not exist. Add the annotations, or remove these names."
        )


def _split_path(root, split):
    return os.path.join(root, "ImageSets", "Main", f"{split}.txt")


def _image_files(root):
    folder = os.path.join(root, "JPEGImages")
    found = {}
    for file_name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        stem, suffix = os.path.splitext(file_name)
        if suffix.lower() in IMAGE_SUFFIXES:
            found[stem] = file_name
    return found


def _annotation_path(root, image_name):
    return os.path.join(root, "Annotations", f"{image_name}.xml")


class _TreeWithoutDoctype(ElementTree.TreeBuilder):
    """Refuses document type declarations: their entities let a small file fill the memory."""

    def doctype(self, name, pubid, system):
        raise DataError("it has a DOCTYPE, which is refused: its entities can fill the memory")


def _parse(path):
    data = read_bytes(path)
    try:
        parser = ElementTree.XMLParser(target=_TreeWithoutDoctype())
        return ElementTree.fromstring(_decoded(data), parser=parser)
    except DataError as error:
        raise DataError(f"{path}: {error}. Remove the declaration.") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{path}: malformed XML: {error}.") from error


def voc_root(path):
    """Name (str) of the outermost element of an XML file; None if it is malformed before it.

    Raises:
        DataError: the file cannot be read.
    """
    data = read_bytes(path)
    parser = ElementTree.XMLPullParser(["start"])
    try:
        parser.feed(_decoded(data))
        for _, element in parser.read_events():
            return element.tag
    except (ElementTree.ParseError, LookupError, ValueError):
        pass
    return None


def _decoded(data):
    """What the parser of XML takes: bytes, or text where it does not know the encoding."""
    encoding = _SEVERAL_BYTES.match(data)
    return data.decode(encoding[1].decode()) if encoding else data


def _size(path, tree, image_path):
    """(width, height) as annotated, or of the upright image if that is missing or 0, or (0, 0)."""
    texts = [tree.findtext(f"size/{key}", "0") for key in ("width", "height")]
    try:
        width, height = (int(float(text)) for text in texts)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: its size is given as {' x '.join(texts)}.") from error
    if (width > 0 and height > 0) or not os.path.exists(image_path):
        return width, height
    return image_size(image_path)


def _objects(path, tree):
    """(name, [xmin, ymin, xmax, ymax], difficult) of each object."""
    result = []
    for number, element in enumerate(tree.findall("object"), start=1):
        name = element.findtext("name", "").strip()
        texts = [element.findtext(f"bndbox/{key}", "") for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            corners = [float(text) for text in texts]
            if not all(map(math.isfinite, corners)):
                raise ValueError("not finite")
        except ValueError as error:
            raise DataError(
                f"{path}: object number {number} ({name or 'without a name'}) needs numbers for "
                f"xmin, ymin, xmax, ymax; it has {texts}."
            ) from error
        difficult = element.findtext("difficult", "0").strip() or "0"
        if difficult not in ("0", "1"):
            raise DataError(
                f"{path}: object number {number} ({name or 'without a name'}): difficult must be "
                f"0 or 1; it is {difficult[:40]!r}."
            )
        if not name:
            raise DataError(f"{path}: object number {number} has no name.")
        result.append((name, corners, int(difficult)))
    return result


def _clip(box, width, height):
    x, y, w, h = box
    left, top = max(x, 0.0), max(y, 0.0)
    return [left, top, min(x + w, float(width)) - left, min(y + h, float(height)) - top]

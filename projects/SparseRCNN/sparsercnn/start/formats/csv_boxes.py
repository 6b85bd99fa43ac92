"""Tables of boxes: CSV files with a row per object."""

import csv
import itertools
import math

from ...data.files import UTF_16, read_bytes, read_text
from ...errors import DataError
from ...image_files import image_size
from .folder import Source
from .tables import make_splits

__all__ = ["find", "read"]

# Names of columns in lower case, without spaces and underscores.
_IMAGE = ("filename", "file", "image", "imagepath", "path", "imageid", "img", "imagename")
_CLASS = ("class", "label", "name", "category", "classname", "labelname", "categoryname")
_CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("x0", "y0", "x1", "y1"))
_SIDES = (
    ("x", "y", "w", "h"),
    ("x", "y", "boxwidth", "boxheight"),
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
)
_CORNER_KEYS, _SIDE_KEYS = ("x0", "y0", "x1", "y1"), ("x", "y", "w", "h")
_HEAD = 1 << 16  # bytes that tell whether a file is a table of boxes
_LARGEST_FRACTION = 1.5  # as of YOLO's labels: a box may reach beyond the image
_SIZE = (("width", "height"), ("imagewidth", "imageheight"))


def find(folder):
    """The tables (list[Path])."""
    return [path for path in folder.with_suffix(".csv") if _columns(path) is not None]


def read(folder, files, images=None):
    """
    Args:
        folder (Folder): the data.
        files (list[Path]): from :func:`find`.
        images (str): not for this format, whose rows name the images.

    Returns:
        Source: a split for each table, named after it.

    Raises:
        DataError: a row is malformed.
    """
    if images:
        raise DataError("--images is not for CSV, whose rows say where the images are.")
    tables, notes = {}, []
    for name, path in folder.split_names(files).items():
        columns, has_header = _columns(path)
        tables[name] = _read_table(folder, path, columns, has_header)
        if not tables[name]:
            raise DataError(f"{path}: the table has no rows. Remove it, or export it again.")
        unit = "pixels count from 0 at the corner of the image"
        if _has_fractions(tables[name]):
            tables[name] = _in_pixels(tables[name], folder)
            unit = "the boxes are fractions of the image"
        how = ", ".join(f"{key} = column {index + 1}" for key, index in columns.items())
        notes.append(f"{path.name}: {how}; {unit}.")
    return Source("CSV of boxes", make_splits(tables, folder.path), notes)


def _rows(text):
    """(line number, fields) of each row that is not empty, with any usual delimiter."""
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    return ((reader.line_num, row) for row in reader if any(x.strip() for x in row))


def _columns(path):
    """Index by meaning, and whether there is a line of names; None if this is no table of boxes.

    Without names, only PATH,X1,Y1,X2,Y2,CLASS is known. In which encoding the rest is does not
    matter here: other tables may be by the data, and of these, reading says so.
    """
    head = read_bytes(path)[:_HEAD]
    encoding = "utf-16" if head.startswith(UTF_16) else "utf-8-sig"
    try:
        first = next((row for _, row in _rows(head.decode(encoding, "replace"))), None)
    except csv.Error:
        return None
    if first is None:
        return None
    names = [x.strip().lower().replace("_", "").replace(" ", "") for x in first]
    found = {"image": _first(names, _IMAGE), "class": _first(names, _CLASS)}
    box = next((x for x in (*_CORNERS, *_SIDES) if set(x) <= set(names)), None)
    if box and None not in found.values():
        keys = _CORNER_KEYS if box in _CORNERS else _SIDE_KEYS
        found |= {key: names.index(x) for key, x in zip(keys, box, strict=True)}
        size = next((x for x in _SIZE if set(x) <= set(names)), None)
        if size:
            found |= {"width": names.index(size[0]), "height": names.index(size[1])}
        return found, True
    if len(names) == 6 and all(map(_is_number, first[1:5])):
        return dict(zip(("image", *_CORNER_KEYS, "class"), range(6), strict=True)), False
    return None


def _first(names, known):
    return next((names.index(x) for x in known if x in names), None)


def _is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _read_table(folder, path, columns, has_header):
    table, places = {}, {}
    rows = itertools.islice(_rows(read_text(path)), int(has_header), None)
    for line, row in _without_errors(path, rows):
        where = f"{path}, line {line}"
        if len(row) <= max(columns.values()):
            raise DataError(f"{where}: has {len(row)} columns; the table's boxes need more.")
        values = {key: row[index].strip() for key, index in columns.items()}
        name = values["image"]
        if name not in places:
            places[name] = folder.find_image(name, path)
        size = _size(values, where)
        known, objects = table.setdefault(places[name], (size, []))
        if known != size:
            raise DataError(f"{where}: {name} has another width or height than in a row before.")
        keys = _CORNER_KEYS if "x0" in columns else _SIDE_KEYS
        if values["class"] or any(values[key] for key in keys):  # else: an image without objects
            objects.append(_object(values, keys, where))
    return table


def _has_fractions(table):
    numbers = [x for _, objects in table.values() for _, box in objects for x in box]
    return max(numbers, default=math.inf) <= _LARGEST_FRACTION


def _in_pixels(table, folder):
    result = {}
    for name, (size, objects) in table.items():
        width, height = size or image_size(folder.path / name)
        sides = (width, height, width, height)
        scaled = [
            (label, [x * side for x, side in zip(box, sides, strict=True)])
            for label, box in objects
        ]
        result[name] = size, scaled
    return result


def _without_errors(path, rows):
    try:
        yield from rows
    except csv.Error as error:
        raise DataError(f"{path}: not a table: {error}.") from error


def _size(values, where):
    if not values.get("width"):
        return None
    try:
        return int(float(values["width"])), int(float(values["height"]))
    except ValueError as error:
        raise DataError(f"{where}: width and height must be numbers.") from error


def _object(values, keys, where):
    texts = [values[key] for key in keys]
    try:
        box = [float(text) for text in texts]
    except ValueError as error:
        raise DataError(f"{where}: a box must be four numbers; it is {texts}.") from error
    if not values["class"]:
        raise DataError(f"{where}: the object has no class.")
    if keys is _SIDE_KEYS:
        box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    return values["class"], box

"""Readers of annotation formats, each a module with ``find`` and ``read``.

COCO json and VOC are read by :mod:`sparsercnn.data`, as in training; of the others, the content is
converted to COCO's format. Libraries that convert such files leave out shapes or lines that they
do not know, ignore the rotation in EXIF data or name no line in their errors, which is why these
formats, each of a few numbers per line, have readers of their own.
"""

from ...errors import DataError
from . import coco, csv_boxes, labelme, voc, yolo
from .folder import Folder, Source, Split

__all__ = ["FORMATS", "Source", "Split", "read_source"]

FORMATS = {"coco": coco, "voc": voc, "yolo": yolo, "labelme": labelme, "csv": csv_boxes}
"""Name on the command line -> its reader."""


def read_source(path, name=None, images=None, leave_out=None):
    """Recognise a data set and read its splits.

    Args:
        path (str | Path): a folder, or a file of annotations.
        name (str): the format, one of :data:`FORMATS`; None: it is found out.
        images (str): folder of the images, for COCO json and VOC; None: it is looked for.
        leave_out (str): a folder inside `path` that is not part of the data.

    Returns:
        Source: the splits, which are converted only when they are loaded.

    Raises:
        DataError: nothing is recognised, or more than one format; or a file cannot be read.
    """
    folder = Folder(path, leave_out)
    found = {key: FORMATS[key].find(folder) for key in ([name] if name else FORMATS)}
    found = {key: files for key, files in found.items() if files}
    if not found:
        raise DataError(
            f"{path}: no annotations {f'of the format {name} ' if name else ''}were recognised. "
            "Known are COCO json; Pascal VOC, XML files by images; YOLO, a data.yaml or text files "
            "by images; LabelMe json; and CSV with a row per box: see docs/own_data.md."
        )
    if len(found) > 1:
        listed = "; ".join(f"{key}, such as {files[0]}" for key, files in found.items())
        raise DataError(f"{path} has annotations in several formats: {listed}. Choose by --format.")
    ((key, files),) = found.items()
    source = FORMATS[key].read(folder, files, images)
    source.notes += folder.notes
    return source

"""What formats share whose files list boxes in pixels of images that are found by name."""

from ...data.coco import add_image, add_object, complete, new_annotations
from ...image_files import image_size
from .folder import Split

__all__ = ["convert_boxes", "make_splits"]


def make_splits(tables, root):
    """Splits whose classes are those that occur in any of them, sorted.

    Args:
        tables (dict[str, dict]): name of the split -> rows, see :func:`convert_boxes`.
        root (Path): folder of the images.

    Returns:
        dict[str, Split]: by name.
    """
    lists = [objects for rows in tables.values() for _, objects in rows.values()]
    class_names = sorted({name for objects in lists for name, _ in objects})

    def make(rows):
        return Split(str(root), lambda: convert_boxes(rows, class_names, root))

    return {name: make(rows) for name, rows in tables.items()}


def convert_boxes(rows, class_names, root):
    """Convert lists of boxes to COCO's format.

    Args:
        rows (dict[str, tuple]): "file_name" relative to `root` -> annotated (width, height), or
            None to take the file's, and objects (class name, [x0, y0, x1, y1]) in pixels from the
            corner of the image.
        class_names (list[str]): names of the categories with ids 1, 2, ...
        root (Path): folder of the images.

    Returns:
        dict: COCO's format, image ids from 1 in the order of `rows`.
    """
    ids = {name: number for number, name in enumerate(class_names, start=1)}
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    content = new_annotations(f"{root}, converted", categories)
    for image_id, (file_name, (size, objects)) in enumerate(rows.items(), start=1):
        add_image(content, image_id, file_name, *(size or image_size(root / file_name)))
        for name, (x0, y0, x1, y1) in objects:
            box = [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)]
            add_object(content, image_id, ids[name], box)
    return complete(content)

"""Reading, checking and loading of object annotations in COCO's json format."""

import json

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..errors import DataError
from .validation import box_problem

__all__ = [
    "add_image",
    "add_object",
    "complete",
    "load_coco",
    "new_annotations",
    "read_coco",
    "register_coco",
    "without_invalid",
]

_NUMBER = (int, float)


def read_coco(path):
    """Read an annotation file and check that it has COCO's format.

    Invalid boxes are not checked here but by :func:`sparsercnn.data.leave_out_invalid`.

    Args:
        path (str): a local file.

    Returns:
        dict: "images", "categories" and, unless the file has no ground truth, "annotations".

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: the file is empty, not json, or not in COCO's format.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: COCO's format is a json object, not {_kind(content)}.")
    for key in ("images", "categories"):
        if not isinstance(content.get(key), list) or not content[key]:
            raise DataError(f'{path}: "{key}" is missing or empty; it must be a non-empty list.')
    if not isinstance(content.get("annotations", []), list):
        raise DataError(f'{path}: "annotations" is {_kind(content["annotations"])}, not a list.')
    _check_entries(path, content, "categories", {"id": int, "name": str})
    sizes = {"height": _NUMBER, "width": _NUMBER}
    _check_entries(path, content, "images", {"id": (int, str), "file_name": str, **sizes})
    fields = {"id": (int, str), "image_id": (int, str), "category_id": (int, str), "bbox": list}
    _check_entries(path, content, "annotations", fields)
    for annotation in content.get("annotations", []):
        _check_annotation(path, annotation)
    return content


def _read_json(path):
    with open(path, encoding="utf-8-sig") as file:
        try:
            text = file.read()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not a text file in UTF-8: {error}.") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty.")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{path}, {position}: malformed json: {error.msg}.") from error
    except RecursionError as error:
        raise DataError(f"{path}: malformed json: it is nested too deeply.") from error


def _kind(value):
    return {dict: "an object", list: "a list", str: "a string"}.get(type(value), repr(value))


def _check_entries(path, content, section, fields):
    """Check that each entry is an object with these fields and a unique id."""
    seen = set()
    for number, entry in enumerate(content.get(section, []), start=1):
        where = f"{path}: number {number} of {section}"
        if not isinstance(entry, dict):
            raise DataError(f"{where} is {_kind(entry)}, not an object.")
        for key, types in fields.items():
            if key not in entry:
                raise DataError(f'{where} (id {entry.get("id")}) has no "{key}".')
            if not isinstance(entry[key], types) or isinstance(entry[key], bool):
                value = _kind(entry[key])
                raise DataError(f'{where} (id {entry["id"]}): "{key}" cannot be {value}.')
        if entry["id"] in seen:
            raise DataError(f"{where} repeats the id {entry['id']!r}; ids must be unique.")
        seen.add(entry["id"])


def _check_annotation(path, annotation):
    where = f"{path}: annotation id {annotation['id']} of image id {annotation['image_id']}"
    box = annotation["bbox"]
    if len(box) != 4 or not all(isinstance(x, _NUMBER) for x in box):
        raise DataError(f"{where}: bbox must be four numbers, x, y, width, height; it is {box}.")
    if annotation.get("ignore", 0):
        raise DataError(f'{where} has "ignore", which is not in COCO\'s format; use "iscrowd".')


def new_annotations(description, categories, **info):
    """An annotation file without images, as a dict, to be filled by the two functions below.

    Args:
        description (str): for "info", as are the values of `info`.
        categories (list[dict]): each with "id" and "name".
    """
    info = {"description": description, **info}
    return {"info": info, "images": [], "annotations": [], "categories": categories}


def add_image(content, image_id, file_name, width, height):
    """Append an image, width and height in pixels, to an annotation file."""
    content["images"].append(
        {"id": image_id, "file_name": file_name, "width": width, "height": height}
    )


def add_object(content, image_id, category_id, box, **fields):
    """Append an object with box [x, y, width, height] and further fields; ids count from 1."""
    number = len(content["annotations"]) + 1
    own = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box}
    content["annotations"].append({**own, **fields})


def complete(content):
    """Add the fields that pycocotools needs for evaluation but many files lack.

    Args:
        content (dict): as :func:`read_coco` returns it.

    Returns:
        dict: `content` itself if nothing is missing. Otherwise a copy in which a missing "iscrowd"
        is 0 and a missing "area" is the area of the box.
    """
    annotations = content.get("annotations", [])
    if all("iscrowd" in x and "area" in x for x in annotations):
        return content
    defaults = ({"iscrowd": 0, "area": max(0, x["bbox"][2] * x["bbox"][3])} for x in annotations)
    completed = [{**default, **x} for default, x in zip(defaults, annotations, strict=True)]
    return {**content, "annotations": completed}


def without_invalid(content, image_ids):
    """The part of an annotation file that :func:`sparsercnn.data.leave_out_invalid` keeps.

    Args:
        content (dict): in COCO's format.
        image_ids (set): ids of the images to keep.

    Returns:
        dict: a copy with these images and their valid annotations.
    """
    images = [image for image in content["images"] if image["id"] in image_ids]
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    categories = {category["id"] for category in content["categories"]}
    annotations = [
        x
        for x in content.get("annotations", [])
        if x["image_id"] in sizes
        and x["category_id"] in categories
        and not box_problem(x["bbox"], *sizes[x["image_id"]])
    ]
    return {**content, "images": images, "annotations": annotations}


def load_coco(name, json_file, image_root):
    """Detectron2's :func:`load_coco_json`, for a data set whose metadata has its classes.

    An annotation of a category that is not in the metadata gets a field "unknown_category", with
    the category's name or id.

    Args:
        name (str): the registered data set.
        json_file (str): annotation file.
        image_root (str): folder of the images.

    Returns:
        list[dict]: records in detectron2's format, whose annotations have their "id".
    """
    keys = ["id", "category_name"]
    records = load_coco_json(json_file, image_root, extra_annotation_keys=keys)
    indices = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    for record in records:
        for annotation in record["annotations"]:
            category = annotation["category_id"]
            category_name = annotation.pop("category_name", category)
            if category in indices:
                annotation["category_id"] = indices[category]
            else:
                annotation["unknown_category"] = category_name
    return records


def register_coco(name, load, json_file, image_root, categories, evaluator_type="coco", **metadata):
    """Register a detection data set that is evaluated against an annotation file.

    Args:
        name (str): name of the data set.
        load (callable): returns its records.
        json_file (str): annotation file, which need not exist yet.
        image_root (str): folder of the images.
        categories (list[dict]): in COCO's format, in the order of the classes.
        evaluator_type (str): a name in :data:`~sparsercnn.evaluation.EVALUATOR_REGISTRY`.
        metadata: further metadata.
    """
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type=evaluator_type,
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={
            category["id"]: index for index, category in enumerate(categories)
        },
        **metadata,
    )

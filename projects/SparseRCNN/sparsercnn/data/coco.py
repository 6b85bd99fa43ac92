"""Reading, making and registering of object annotations in COCO's json format."""

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict

from .coco_schema import default_area, read_coco
from .files import cache_json
from .segmentations import mask_problem
from .validation import box_problem

__all__ = [
    "add_image",
    "add_object",
    "complete",
    "ensure_json_file",
    "new_annotations",
    "read_coco",
    "register_coco",
    "without_invalid",
]


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


def ensure_json_file(name):
    """Write the ground truth of a data set that was registered in Python without a `json_file`.

    Detectron2's evaluator would write one per output folder, and read it there ever after, even if
    the data set is another one by then. This one is named by its content, in the cache folder.

    Args:
        name (str): a registered data set, whose metadata get the file.

    Raises:
        OSError: no folder is writable.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("json_file") is None:
        metadata.json_file = cache_json("registered", convert_to_coco_dict(name))


def complete(content):
    """Add the fields that pycocotools needs for evaluation but many files lack.

    Args:
        content (dict): as :func:`~sparsercnn.data.coco_schema.read_coco` returns it.

    Returns:
        dict: `content` itself if nothing is missing. Otherwise a copy in which a missing "iscrowd"
        is 0 and a missing "area" is the area of the box.
    """
    annotations = content.get("annotations", [])
    if all("iscrowd" in x and "area" in x for x in annotations):
        return content
    defaults = ({"iscrowd": 0, "area": default_area(x["bbox"])} for x in annotations)
    completed = [{**default, **x} for default, x in zip(defaults, annotations, strict=True)]
    return {**content, "annotations": completed}


def without_invalid(content, image_ids, with_masks=False):
    """The part of an annotation file that :func:`sparsercnn.data.leave_out_invalid` keeps.

    Args:
        content (dict): in COCO's format.
        image_ids (set): ids of the images to keep.
        with_masks (bool): whether annotations need a segmentation.

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
        and not (with_masks and _has_no_mask(x.get("segmentation"), *sizes[x["image_id"]]))
    ]
    return {**content, "images": images, "annotations": annotations}


def _has_no_mask(segmentation, width, height):
    return not segmentation or mask_problem(segmentation, width, height)


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

"""LVIS's annotation files: COCO's format, with what is known of the classes of each image."""

import os

from ..errors import DataError
from .coco_cache import completed_copy, open_coco
from .coco_schema import check_coco, read_json
from .files import cache_folder, cache_folders, content_hash, write_json

__all__ = ["FREQUENCIES", "convert_lvis"]

FREQUENCIES = ("r", "c", "f")  # rare, common, frequent: in 1 to 10, 11 to 100, more images
_VERSION = 2  # of the conversion


def convert_lvis(path):
    """A copy of a file in LVIS's format that readers of COCO's format take, too.

    LVIS v1 names images by "coco_url" alone, and v0.5 beside it by a name of COCO 2014: the last
    two parts of the URL become "file_name", the folder of the split and the file. The copy is kept
    under a hash of the file's content.

    Args:
        path (str): a local file, of v1 or v0.5.

    Returns:
        str: the copy, in the cache folder.

    Raises:
        MissingFileError: the file does not exist.
        DataError: it is not in LVIS's format.
        OSError: no folder is writable.
    """
    stem = os.path.splitext(os.path.basename(path))[0]
    name = f"lvis-{stem}-{content_hash(path, f'{_VERSION} ')}.json"
    for folder in cache_folders():
        if os.path.exists(os.path.join(folder, name)):
            return _complete(os.path.join(folder, name))
    content = read_json(path)
    if isinstance(content, dict):
        _check_lists(path, content)
        content = {
            **content,
            "images": [_named(x) for x in content.get("images") or ()],
            "annotations": [{"iscrowd": 0, **x} for x in content.get("annotations") or ()],
        }
    check_coco(path, content)
    _check_lvis(path, content)
    copy = os.path.join(cache_folder(), name)
    write_json(copy, content)
    return _complete(copy)


def _complete(path):
    """With the areas that files of other origin may lack."""
    return path if open_coco(path).header["complete"] else completed_copy(path)


def _check_lists(path, content):
    for key in ("images", "annotations"):
        entries = content.get(key) or []
        if not isinstance(entries, list) or not all(isinstance(x, dict) for x in entries):
            raise DataError(f'{path}: "{key}" must be a list of objects. Correct the file.')


def _named(image):
    of_2014 = str(image.get("file_name", "COCO_")).startswith("COCO_")
    if not of_2014 or not isinstance(image.get("coco_url"), str):
        return image
    return {**image, "file_name": "/".join(image["coco_url"].split("/")[-2:])}


def _check_lvis(path, content):
    for category in content["categories"]:
        if category.get("frequency") not in FREQUENCIES:
            raise DataError(
                f"{path}: category id {category['id']} has the frequency "
                f"{category.get('frequency')!r}; in LVIS's format it is r, c or f. For COCO's "
                "format, name the file by coco:ANNOTATIONS.json@IMAGE_DIR."
            )
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if not isinstance(image.get(key), list):
                raise DataError(
                    f'{path}: image id {image["id"]} has no list "{key}", which LVIS\'s metrics '
                    "need. For COCO's format, name the file by coco:ANNOTATIONS.json@IMAGE_DIR."
                )

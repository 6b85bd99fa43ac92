"""The set ``shapes`` on disk: registered, and written atomically on first use."""

import glob
import json
import logging
import os
import shutil
import uuid

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from iopath.common.file_io import file_lock
from PIL import Image

from ..errors import DataError
from .coco import add_image, add_object, new_annotations, register_coco
from .coco_records import load_coco
from .files import datasets_root, write_json
from .shapes import CLASS_NAMES, draw_scene

__all__ = ["make_shapes", "register_shapes"]

NUM_IMAGES = {"train": 600, "val": 150}
IMAGE_SIZE = 128
SEED = 2021
_VERSION = 1  # version of the drawings: increasing it makes every machine draw the set again
_STAMP = "shapes.json"
_CATEGORIES = [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES, start=1)]


def make_shapes(root, num_images=None, size=IMAGE_SIZE, seed=SEED):
    """Draw the set into `root`, unless it is there already.

    Images are in ``train`` and ``val``, annotations in ``annotations/{train,val}.json``, label maps
    in ``labels/{train,val}``: 0 for the background, 1 to 3 for rectangle, ellipse and triangle. The
    folder appears in one step, and several processes may call this at once. A set of another
    version, or made with other arguments, is replaced.

    Args:
        root (str): the folder to write.
        num_images (dict[str, int]): images per split; None: NUM_IMAGES.
        size (int): width and height of the images in pixels.
        seed (int): seed of the whole set.

    Raises:
        DataError: `root` holds other files.
    """
    num_images = num_images or NUM_IMAGES
    stamp = {"version": _VERSION, "num_images": num_images, "size": size, "seed": seed}
    root = os.path.abspath(root)
    if _read_stamp(root) == stamp:
        return
    with file_lock(root):
        if _read_stamp(root) == stamp:  # another process was faster
            return
        if os.path.isdir(root) and os.listdir(root) and _read_stamp(root) is None:
            raise DataError(
                f"The synthetic shapes are written to {root}, but it holds other files. Move "
                "these, or set DETECTRON2_DATASETS to another folder."
            )
        for leftover in glob.glob(f"{glob.escape(root)}.*.tmp"):  # from a killed process
            shutil.rmtree(leftover)
        temporary = f"{root}.{uuid.uuid4().hex}.tmp"
        try:
            _write(temporary, stamp)
            if os.path.isdir(root):
                os.rename(root, f"{temporary}.old.tmp")
            os.rename(temporary, root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(f"{temporary}.old.tmp", ignore_errors=True)


def _read_stamp(root):
    try:
        with open(os.path.join(root, _STAMP), encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def _write(folder, stamp):
    logging.getLogger(__name__).info("Drawing the synthetic set 'shapes' ...")
    os.makedirs(os.path.join(folder, "annotations"))
    for split_index, (split, num_images) in enumerate(stamp["num_images"].items()):
        image_folder = os.path.join(folder, split)
        label_folder = os.path.join(folder, "labels", split)
        os.makedirs(image_folder)
        os.makedirs(label_folder)
        content = new_annotations("synthetic shapes", _CATEGORIES, **stamp)
        for image_id in range(1, num_images + 1):
            scene = draw_scene((stamp["seed"], split_index, image_id), stamp["size"])
            file_name = f"{image_id:06d}.png"
            image = Image.fromarray(scene.image)
            image.save(os.path.join(image_folder, file_name), compress_level=1)
            Image.fromarray(scene.labels).save(os.path.join(label_folder, file_name))
            add_image(content, image_id, file_name, stamp["size"], stamp["size"])
            for shape in scene.shapes:
                _add_shape(content, image_id, shape)
        write_json(os.path.join(folder, "annotations", f"{split}.json"), content)
    write_json(os.path.join(folder, _STAMP), stamp)


def _add_shape(content, image_id, shape):
    polygon = [float(x) for x in shape.polygon.ravel()]
    fields = {"area": round(shape.area, 2), "iscrowd": 0, "segmentation": [polygon]}
    add_object(content, image_id, 1 + shape.class_index, shape.box, **fields)


def register_shapes(root=None):
    """Register ``shapes_{train,val}`` and ``shapes_sem_seg_{train,val}`` without writing files.

    Args:
        root (str): folder of the set, which need not exist; None: ``shapes`` in the root of the
            data sets.
    """
    root = root or os.path.join(datasets_root(), "shapes")
    for split in NUM_IMAGES:
        _register_objects(f"shapes_{split}", root, split)
        _register_labels(f"shapes_sem_seg_{split}", root, split)


def _register_objects(name, root, split):
    json_file = os.path.join(root, "annotations", f"{split}.json")
    image_root = os.path.join(root, split)

    def load():
        make_shapes(root)
        return load_coco(name, json_file, image_root)

    register_coco(name, load, json_file, image_root, _CATEGORIES)


def _register_labels(name, root, split):
    image_root, label_root = os.path.join(root, split), os.path.join(root, "labels", split)

    def load():
        make_shapes(root)
        return load_sem_seg(label_root, image_root, gt_ext="png", image_ext="png")

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        image_root=image_root,
        sem_seg_root=label_root,
        evaluator_type="sem_seg",
        stuff_classes=["background", *CLASS_NAMES],
        ignore_label=255,
    )

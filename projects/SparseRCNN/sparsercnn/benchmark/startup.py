"""Start-up on a data set of COCO's size: processor time and memory, at first and later."""

import contextlib
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..analysis import markdown_table
from . import common

__all__ = ["SHORT", "StartResult", "add_arguments", "measure", "run", "write_data_set"]

SHORT = False

_IMAGES, _BOXES = 118_287, 860_180  # of COCO's train2017
_CLASSES = 80


@dataclass
class StartResult:
    """Measurements of one process. Bytes are above those at its start, after all imports."""

    seconds: float  # processor time until there is a training loader
    peak: int  # bytes meanwhile
    own: int  # bytes that no other process shares, after all records have been read
    share: int  # the same and an equal part of shared memory
    read: float  # seconds of processor time to read one record


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    parser.add_argument(
        "--images", type=int, default=_IMAGES, help="number of images (%(default)s)"
    )
    parser.add_argument(
        "--points", type=int, default=20, help="points of each box's polygon (%(default)s)"
    )


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns a Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        num_boxes = write_data_set(folder, args.images, args.points)
        size = os.path.getsize(os.path.join(folder, "instances.json"))
        results = {name: measure(name, folder) for name in ("detectron2", "first")}
        results["later, two processes at once"] = measure("later", folder, processes=2)
    header = ["start", "s", "ratio", "peak MiB", "ratio", "own MiB", "share MiB", "us/record"]
    reference = results["detectron2"]
    rows = []
    for name, result in results.items():
        cells = [name, *common.with_ratio(result.seconds, reference.seconds, ".2f")]
        cells += common.with_ratio(result.peak, reference.peak, ",.0f", 2**20)
        cells += [f"{x / 2**20:,.0f}" for x in (result.own, result.share)]
        rows.append([*cells, f"{1e6 * result.read:.0f}"])
    return (
        f"{args.images:,} images, {num_boxes:,} boxes with polygons of {args.points} points, "
        f"{size / 1e6:.0f} MB, {common.describe_place('cpu')}.\n\n"
        f"{markdown_table(header, rows)}\n\n{_LEGEND}"
    )


_LEGEND = """\
Processor time and memory of one process, without its imports. **detectron2**: its own functions
load the records and pack them for the loader, without any check. **first**, **later**: ours, from
the data set's name to the training loader, with all checks; the first start reads the json file,
later ones what it has kept. **peak** is until then; **own** (shared with no other process) and
**share** (with an equal part of what is shared) are after all records have been read."""


def write_data_set(folder, num_images=_IMAGES, num_points=20):
    """Write random annotations, the same each time, to ``instances.json``, and empty images.

    Args:
        folder (str): an existing folder.
        num_images (int): images; there are 7.3 times as many boxes, as in COCO.
        num_points (int): points of each box's polygon.

    Returns:
        int: number of boxes.
    """
    rng = np.random.default_rng(0)
    num_boxes = round(num_images * _BOXES / _IMAGES)
    sizes = rng.integers(300, 641, (num_images, 2))
    image_of = rng.integers(0, num_images, num_boxes)  # COCO's file is not sorted by image either
    classes = rng.integers(1, _CLASSES + 1, num_boxes).tolist()
    positions = sizes[image_of] * rng.uniform(0, 0.6, (num_boxes, 2))
    boxes = np.concatenate([positions, sizes[image_of] * rng.uniform(0.02, 0.4, (num_boxes, 2))], 1)
    os.mkdir(os.path.join(folder, "images"))
    images = []
    for number, (width, height) in enumerate(sizes.tolist(), start=1):
        name = f"{number:012d}.jpg"
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        open(os.path.join(folder, "images", name), "w").close()
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, _CLASSES + 1)]
    with open(os.path.join(folder, "instances.json"), "w") as file:
        file.write(f'{{"images": {json.dumps(images)}, "categories": {json.dumps(categories)}')
        file.write(', "annotations": [')
        for n, (box, image, category_id) in enumerate(zip(boxes, image_of, classes, strict=True)):
            polygon = box[:2] + box[2:] * rng.random((num_points, 2))
            x, y, width, height = box.round(2).tolist()
            annotation = {
                "segmentation": [polygon.round(2).ravel().tolist()],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "image_id": int(image) + 1,
                "bbox": [x, y, width, height],
                "category_id": category_id,
                "id": n + 1,
            }
            file.write(f"{', ' if n else ''}{json.dumps(annotation)}")
        file.write("]}")
    return num_boxes


def measure(name, folder, processes=1):
    """Start in new processes, one after the other, which then stay.

    Args:
        name (str): "detectron2": with its functions; otherwise ours.
        folder (str): of :func:`write_data_set`. What is kept for later starts is kept in it.
        processes (int): number of processes.

    Returns:
        StartResult: of the last one.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, mp_context=context))
            for _ in range(processes)
        ]
        started = [pool.submit(_start, name, folder).result() for pool in pools]
        read = [pool.submit(_read_all).result() for pool in pools]
        own, share = pools[-1].submit(_memory).result()
        return StartResult(*started[-1], own, share, read[-1])


_kept = {}  # of a process: the data set, and its memory before


def _start(name, folder):
    os.environ["DETECTRON2_DATASETS"] = folder
    # Not part of the measurement.
    from detectron2.config import get_cfg
    from detectron2.data import DatasetFromList, get_detection_dataset_dicts
    from detectron2.data.datasets import register_coco_instances

    from ..config import add_sparsercnn_config
    from ..data import build_train_loader, register_datasets

    json_file, images = os.path.join(folder, "instances.json"), os.path.join(folder, "images")
    entry = f"coco:{json_file}@{images}"
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SparseRCNN"
    cfg.DATASETS.TRAIN = (entry,)
    _kept["memory"] = _memory()
    before = common.reset_process_peak()
    begin = common.processor_seconds("cpu")
    if name == "detectron2":
        register_coco_instances("random_boxes", {}, json_file, images)
        dataset = DatasetFromList(get_detection_dataset_dicts(["random_boxes"]), copy=False)
    else:
        register_datasets([entry])
        dataset = build_train_loader(cfg).dataset
    _kept["dataset"] = dataset
    return common.processor_seconds("cpu") - begin, common.process_peak() - before


def _read_all():
    """Seconds to read a record, the mean of all."""
    dataset = _kept["dataset"]
    begin = common.processor_seconds("cpu")
    for number in range(len(dataset)):
        dataset[number]
    return (common.processor_seconds("cpu") - begin) / len(dataset)


def _memory():
    """Bytes of this process alone, and with its part of shared memory, above those before."""
    with open("/proc/self/smaps_rollup") as file:
        fields = [line.split() for line in file.readlines()[1:]]
    kib = {field[0]: int(field[1]) for field in fields}
    now = (kib["Private_Clean:"] + kib["Private_Dirty:"], kib["Pss:"])
    return tuple(1024 * x - y for x, y in zip(now, _kept.get("memory", (0, 0)), strict=True))

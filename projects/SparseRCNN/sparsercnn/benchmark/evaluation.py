"""COCO's metrics of boxes: the fastest implementation that is installed, and pycocotools."""

import contextlib
import io
import statistics

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..analysis import markdown_table
from ..data.coco import add_image, add_object, new_annotations
from ..evaluation.coco_evaluation import COCOeval_faster, evaluate_on_coco
from . import common

__all__ = ["SHORT", "add_arguments", "make_detections", "make_ground_truth", "measure", "run"]

SHORT = False

_SIZE = 640  # side of the images in pixels
_OBJECTS = 7  # of an image, about as many as in COCO


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    parser.add_argument("--images", type=int, default=5000, help="number of images (%(default)s)")
    parser.add_argument(
        "--detections",
        nargs="+",
        type=int,
        default=[100, 300],
        metavar="D",
        help="detections in each image (%(default)s)",
    )
    parser.add_argument("--classes", type=int, default=80, metavar="K")
    parser.add_argument("--rounds", type=int, default=1, help="medians are reported (%(default)s)")


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns a Markdown table."""
    ground_truth = make_ground_truth(args.images, args.classes)
    rows = []
    for num_detections in args.detections:
        detections = make_detections(ground_truth, num_detections)
        seconds, stats = measure(ground_truth, detections, args.rounds)
        for name in seconds:
            difference = np.abs(stats[name] - stats["pycocotools"]).max()
            cells = [
                num_detections,
                name,
                *common.with_ratio(seconds[name], seconds["pycocotools"], ".1f"),
            ]
            rows.append([*cells, f"{100 * stats[name][0]:.2f}", f"{difference:.0e}"])
    header = ["detections", "implementation", "s", "ratio", "AP", "difference"]
    return (
        f"{args.images} images of {_OBJECTS} objects, {args.classes} classes, "
        f"{common.describe_place('cpu')}; medians of {args.rounds} rounds, implementations in "
        f"turn.\n\n{markdown_table(header, rows, text_columns=2)}\n\n{_LEGEND}"
    )


def make_ground_truth(num_images, num_classes):
    """Random objects, the same each time (pycocotools.coco.COCO)."""
    rng = np.random.default_rng(0)
    categories = [{"id": k + 1, "name": f"class {k}"} for k in range(num_classes)]
    content = new_annotations("random boxes", categories)
    for image_id in range(1, num_images + 1):
        add_image(content, image_id, f"{image_id}.jpg", _SIZE, _SIZE)
        classes = rng.integers(1, num_classes + 1, _OBJECTS).tolist()
        for category_id, box in zip(classes, _draw_boxes(rng, _OBJECTS).tolist(), strict=True):
            add_object(content, image_id, category_id, box, area=box[2] * box[3], iscrowd=0)
    ground_truth = COCO()
    ground_truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
    return ground_truth


def make_detections(ground_truth, num_detections):
    """Random detections, of which half are near an object and have its class.

    Args:
        ground_truth (pycocotools.coco.COCO): of :func:`make_ground_truth`.
        num_detections (int): in each image.

    Returns:
        list[dict]: in COCO's results format.
    """
    rng = np.random.default_rng(1)
    num_classes = len(ground_truth.cats)
    detections = []
    for image_id, objects in ground_truth.imgToAnns.items():
        of = rng.integers(0, len(objects), num_detections)
        near = rng.random(num_detections) < 0.5
        around = np.array([x["bbox"] for x in objects])[of]
        around = around * rng.uniform(0.8, 1.2, (num_detections, 4))
        boxes = np.where(near[:, None], around, _draw_boxes(rng, num_detections))
        classes = np.array([x["category_id"] for x in objects])[of]
        classes = np.where(near, classes, rng.integers(1, num_classes + 1, num_detections))
        scores = rng.random(num_detections) * np.where(near, 1.0, 0.5)
        columns = (classes.tolist(), boxes.tolist(), scores.tolist())
        for category_id, box, score in zip(*columns, strict=True):
            one = {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            detections.append(one)
    return detections


def measure(ground_truth, detections, rounds=1):
    """Time the implementations on the same detections, one after the other in every round.

    Args:
        ground_truth (pycocotools.coco.COCO): the annotations.
        detections (list[dict]): in COCO's results format.
        rounds (int): rounds, all of them timed, since each takes long.

    Returns:
        tuple[dict, dict]: by implementation, the median of the seconds of processor time, and
        COCO's 12 numbers (ndarray).
    """
    classes = {"pycocotools": COCOeval}
    if COCOeval_faster is not None:
        classes["faster_coco_eval"] = COCOeval_faster
    stats = {}

    def evaluate(name):
        with contextlib.redirect_stdout(io.StringIO()):
            result = evaluate_on_coco(ground_truth, detections, "bbox", eval_class=classes[name])
        stats[name] = np.array(result.stats[:12], float)

    functions = {name: lambda name=name: evaluate(name) for name in classes}
    seconds = common.time_in_turn(
        functions, rounds, "cpu", clock=common.processor_seconds, untimed=0
    )
    return {name: statistics.median(values) for name, values in seconds.items()}, stats


def _draw_boxes(rng, number):
    """Boxes (number, 4): x, y, width, height in pixels, inside of the image."""
    size = _SIZE * rng.uniform(0.03, 0.6, (number, 2))
    return np.concatenate([rng.random((number, 2)) * (_SIZE - size), size], axis=1)


_LEGEND = """\
**s**: processor time of all threads, from detections in memory to COCO's 12 numbers. Ratios are to
pycocotools. **difference**: the largest one of these numbers from those of pycocotools. As in COCO,
the 100 best detections per class and image count."""

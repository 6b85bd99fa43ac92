"""Small objects found in a picture of 4,000 x 3,000 pixels, whole and in slices (TEST.SLICES)."""

import time

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.ops import box_iou

from ..data.shapes import draw_scene
from ..inference.loading import load

__all__ = ["SHORT", "add_arguments", "draw_field", "match_objects", "run"]

SHORT = False

_SCENE = 128  # pixels, at which the shapes have 24 to 72
_CELL = 200  # a scene's objects lie in a square of so many pixels
_IOU = 0.5


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    parser.add_argument(
        "--weights", default="output/quickstart", help="of a model of the shapes (%(default)s)"
    )
    parser.add_argument("--size", nargs=2, type=int, default=(4000, 3000), help="width and height")
    parser.add_argument("--threshold", type=float, default=0.5, help="of scores (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the picture (%(default)s)")
    parser.add_argument("--slice", type=int, default=_SCENE, help="side in pixels (%(default)s)")
    parser.add_argument(
        "--overlap", type=float, default=0.5, help="of slices: objects fit into it (%(default)s)"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write the picture, whole and in slices, with what was found (green), wrong (red) and "
        "missed (blue)",
    )
    parser.add_argument("--device", default="cpu", help="(%(default)s)")


def draw_field(width, height, seed):
    """A large picture with the objects of many scenes of the set ``shapes`` on one background.

    Args:
        width, height (int): in pixels.
        seed (int): of the picture.

    Returns:
        tuple: image (height, width, 3), uint8, RGB; boxes (M, 4), absolute xyxy; classes (M,).
    """
    rng = np.random.default_rng(seed)
    # Bright and grey: the shapes' colours contrast with their own scene, of any colour.
    image = np.full((height, width, 3), 200, np.float64)
    image += 12 * np.sin(np.arange(width) / 90)[None, :, None]
    image = np.clip(image + rng.integers(-6, 7, image.shape), 0, 255).astype(np.uint8)
    boxes, classes = [], []
    for top in range(0, height - _CELL + 1, _CELL):
        for left in range(0, width - _CELL + 1, _CELL):
            scene = draw_scene((seed, top, left), _SCENE)
            x, y = (start + rng.integers(0, _CELL - _SCENE + 1) for start in (left, top))
            place = image[y : y + _SCENE, x : x + _SCENE]
            place[scene.labels > 0] = scene.image[scene.labels > 0]
            for shape in scene.shapes:
                x0, y0, w, h = shape.box
                boxes.append((x + x0, y + y0, x + x0 + w, y + y0 + h))
                classes.append(shape.class_index)
    return image, torch.tensor(boxes), torch.tensor(classes)


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns a Markdown table."""
    image, boxes, classes = draw_field(*args.size, args.seed)
    lines = [
        f"{len(boxes)} objects; found: of the right class, IoU at least {_IOU}, score at least "
        f"{args.threshold}; wrong: all other detections of such a score.\n",
        "| picture | found | wrong | seconds |",
        "| --- | --- | --- | --- |",
    ]
    slices = ["TEST.SLICES.ENABLED", "True", "TEST.SLICES.SIZE", repr((args.slice, args.slice))]
    slices += ["TEST.SLICES.OVERLAP", str(args.overlap), "TEST.SLICES.WHOLE", "False"]
    slices += ["TEST.SLICES.BATCH_SIZE", "16", "TEST.SLICES.MAX_DETECTIONS", "10000"]
    pictures = []
    for name, opts in (("whole", []), (f"in slices of {args.slice} pixels", slices)):
        predictor = load(args.weights, args.device, opts=opts)
        start = time.perf_counter()
        found = predictor(image, threshold=args.threshold)
        seconds = time.perf_counter() - start
        instances = found.output["instances"]
        pairs = match_objects(instances, boxes, classes)
        wrong = len(instances) - len(pairs)
        lines.append(f"| {name} | {len(pairs)} | {wrong} | {seconds:.1f} |")
        if args.output:
            pictures.append(_draw(image, instances.pred_boxes.tensor, boxes, pairs))
    if args.output:
        Image.fromarray(np.concatenate(pictures, axis=1)).save(args.output)
    return "\n".join(lines)


def match_objects(instances, boxes, classes):
    """Which detection has found which object, the best ones choosing first.

    Args:
        instances (Instances): detections, best first.
        boxes, classes: (M, 4) and (M,), the objects.

    Returns:
        dict[int, int]: detection -> object of the same class, with an IoU of at least 0.5.
    """
    iou = box_iou(instances.pred_boxes.tensor, boxes.to(instances.pred_boxes.tensor))
    iou[instances.pred_classes[:, None] != classes] = 0
    pairs = {}
    for number, row in enumerate(iou):
        best = int(row.argmax())
        if row[best] >= _IOU:
            pairs[number] = best
            iou[:, best] = 0  # it is taken
    return pairs


def _draw(image, found, boxes, pairs):
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for number, box in enumerate(boxes.tolist()):
        if number not in pairs.values():
            draw.rectangle(box, outline=(0, 0, 255), width=4)
    for number, box in enumerate(found.tolist()):
        draw.rectangle(box, outline=(0, 160, 0) if number in pairs else (255, 0, 0), width=4)
    return np.asarray(picture)

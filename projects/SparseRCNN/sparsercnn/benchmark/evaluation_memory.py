"""Memory that COCO's evaluation takes in the main process, and what it would on a larger set."""

import contextlib
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from ..analysis import markdown_table
from ..engine.arguments import argument_parser
from ..engine.processes import run_processes
from ..evaluation.coco_evaluation import COCOEvaluator
from ..files import write_json
from . import common
from .evaluation import make_ground_truth

__all__ = ["SHORT", "add_arguments", "run"]

SHORT = False

_TRAIN2017 = 118_287
_CLASSES = 80


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    parser.add_argument(
        "--images",
        nargs="+",
        type=int,
        default=[1250, 2500, 5000],
        help="numbers of images that are measured (%(default)s)",
    )
    parser.add_argument("--detections", type=int, default=100, help="of an image (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="(%(default)s)")
    parser.add_argument(
        "--estimate", type=int, default=_TRAIN2017, metavar="N", help="images (%(default)s)"
    )


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns a Markdown table."""
    rows = [[f"{n:,}", f"{_measure(n, args) / 2**20:,.0f}"] for n in args.images]
    if len(rows) > 1:
        peaks = [float(row[1].replace(",", "")) for row in rows]
        slope, offset = np.polyfit(args.images, peaks, 1)
        rows.append([f"{args.estimate:,}, estimated", f"{slope * args.estimate + offset:,.0f}"])
    return (
        f"{args.detections} detections in each image, {args.processes} processes, "
        f"{common.describe_place('cpu')}.\n\n{markdown_table(['images', 'MiB'], rows)}\n\n"
        "**MiB**: peak of the main process above what it used before, while detections of all "
        "processes are collected, written and evaluated by COCO's code. The estimate is a straight "
        "line through the measurements."
    )


def _measure(num_images, args):
    """Bytes at the peak of the process of rank 0."""
    with tempfile.TemporaryDirectory() as folder:
        options = argument_parser().parse_args(["--num-processes", str(args.processes)])
        options.launcher = "none"
        options.folder, options.images = folder, num_images
        options.detections = args.detections
        with contextlib.redirect_stdout(sys.stderr):
            write_json(
                os.path.join(folder, "truth.json"), make_ground_truth(num_images, _CLASSES).dataset
            )
            # In a new process: in this one, the peak would hide in what is free from before.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as new:
                new.submit(run_processes, _evaluate, options).result()
        with open(os.path.join(folder, "peak")) as file:
            return int(file.read())


def _evaluate(args):
    """What each process does: random detections on its part of the images."""
    name = args.folder  # a new one for each measurement
    MetadataCatalog.get(name).set(
        json_file=os.path.join(args.folder, "truth.json"),
        thing_dataset_id_to_contiguous_id={k + 1: k for k in range(_CLASSES)},
    )
    before = common.reset_process_peak()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        evaluator = COCOEvaluator(name, tasks=("bbox",), output_dir=args.folder)
        evaluator.reset()
        generator = torch.Generator().manual_seed(comm.get_rank())
        for index in InferenceSampler(args.images):
            found = _detections(args.detections, generator)
            evaluator.process([{"image_id": index + 1}], [{"instances": found}])
        evaluator.evaluate()
    if comm.is_main_process():
        with open(os.path.join(args.folder, "peak"), "w") as file:
            file.write(str(common.process_peak() - before))


def _detections(number, generator):
    instances = Instances((640, 640))
    corners = torch.rand((number, 2), generator=generator) * 500
    sides = torch.rand((number, 2), generator=generator) * 140
    instances.pred_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
    instances.scores = torch.rand(number, generator=generator)
    instances.pred_classes = torch.randint(0, _CLASSES, (number,), generator=generator)
    return instances

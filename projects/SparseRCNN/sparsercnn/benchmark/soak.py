"""Slopes of memory and open files over a long training and a long demo."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from detectron2.engine import HookBase
from scipy.stats import linregress

from ..analysis import markdown_table
from ..data import make_shapes
from ..engine.setup import load_config
from ..engine.trainer import Trainer
from ..inference.demo import run_on_images
from ..inference.loading import load_predictor
from . import common

__all__ = ["SHORT", "Readings", "add_arguments", "run", "usage"]

SHORT = False

_SIZE = 64  # side of the images in pixels
_SAMPLES = 80  # of each slope, at most
_EVALUATIONS = 20  # and checkpoints; the first ones, which take memory for good, are in the quarter
_TINY = [
    # Small checkpoints, since all of them are kept.
    *["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"],
    *["MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "4"],
    *["MODEL.FPN.OUT_CHANNELS", "32", "MODEL.SparseRCNN.HIDDEN_DIM", "32"],
    *["MODEL.SparseRCNN.NHEADS", "4", "MODEL.SparseRCNN.DIM_FEEDFORWARD", "64"],
    *["MODEL.SparseRCNN.DIM_DYNAMIC", "8", "MODEL.SparseRCNN.NUM_HEADS", "2"],
    *["MODEL.SparseRCNN.NUM_PROPOSALS", "6", "INPUT.MIN_SIZE_TRAIN", f"({_SIZE},)"],
    *[
        "INPUT.MIN_SIZE_TEST",
        str(_SIZE),
        "SOLVER.IMS_PER_BATCH",
        "2",
        "DATALOADER.NUM_WORKERS",
        "1",
    ],
]


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    parser.add_argument("--iterations", type=int, default=2000, help="of training (%(default)s)")
    parser.add_argument("--images", type=int, default=2000, help="of the demo (%(default)s)")


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns a Markdown table."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        shapes = os.path.join(folder, "shapes")
        make_shapes(shapes, num_images={"train": 16, "val": 4}, size=_SIZE)
        output = os.path.join(folder, "run")
        rows = [
            ["training, iterations", *_train(shapes, output, args.iterations).cells()],
            ["demo, images", *_draw(shapes, output, args.images).cells()],
        ]
    header = ["what", "steps", "MiB", "KiB/1000", "±", "files", "files/1000", "±"]
    return (
        f"{common.describe_place('cpu')}.\n\n{markdown_table(header, rows)}\n\n"
        "**MiB**, **files**: memory and open files of the process and its loading process at the "
        "end; what they share counts twice. **/1000**: their slopes for each 1,000 steps, "
        "with standard error, without the first quarter of the steps. The training writes "
        f"checkpoints and evaluates {_EVALUATIONS} times; the demo draws and writes each image."
    )


class Readings:
    """Memory and open files by step, of this process and its children."""

    def __init__(self, num_steps):
        """
        Args:
            num_steps (int): steps that will be taken.
        """
        self.num_steps = num_steps
        self.period = max(num_steps // _SAMPLES, 1)
        self.values = []  # (step, bytes, files)

    def read(self, step):
        """Note what is used after `step` steps (int), if it is time to."""
        if step % self.period == 0:
            self.values.append((step, *usage()))

    def cells(self):
        """Cells of a table: steps; memory, its slope and standard error; the same of files."""
        steps, memory, files = np.array(self.values, float).T
        kept = steps >= self.num_steps / 4
        cells = [f"{self.num_steps:,}"]
        for values, unit, last in (
            (memory, 2**10, f"{memory[-1] / 2**20:,.0f}"),
            (files, 1, f"{files[-1]:.0f}"),
        ):
            line = linregress(steps[kept], values[kept] / unit)
            error = line.stderr if np.ptp(values[kept]) else 0.0  # not a number for a constant
            cells += [last, f"{1000 * line.slope:+,.1f}", f"{1000 * error:,.1f}"]
        return cells


def usage():
    """Bytes and number of open files of this process and its children (tuple[int, int])."""
    processes, memory, files = [os.getpid()], 0, 0
    for process in processes:
        folder = Path("/proc") / str(process)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a child that has ended
            for task in (folder / "task").iterdir():
                processes += map(int, (task / "children").read_text().split())
            lines = (folder / "smaps_rollup").read_text().splitlines()
            # Not Pss: it rises when a process writes to what it shares with one that it forked.
            memory += 1024 * sum(int(x.split()[1]) for x in lines if x.startswith("Rss:"))
            files += len(list((folder / "fd").iterdir()))
    return memory, files


class _ReadingHook(HookBase):
    def __init__(self, readings):
        self.readings = readings

    def after_step(self):
        self.readings.read(self.trainer.iter + 1)


def _train(shapes, output, iterations):
    period = str(max(iterations // _EVALUATIONS, 1))
    data = [f"('coco:{shapes}/annotations/{x}.json@{shapes}/{x}',)" for x in ("train", "val")]
    opts = [*_TINY, "OUTPUT_DIR", output, "SOLVER.MAX_ITER", str(iterations)]
    opts += ["SOLVER.CHECKPOINT_PERIOD", period, "TEST.EVAL_PERIOD", period]
    opts += ["DATASETS.TRAIN", data[0], "DATASETS.TEST", data[1], "SOLVER.WARMUP_ITERS", "1"]
    os.makedirs(output)
    trainer = Trainer(load_config("quickstart/Base-R18", opts))
    trainer.resume_or_load(resume=False)
    readings = Readings(iterations)
    trainer.register_hooks([_ReadingHook(readings)])
    trainer.train()
    return readings


def _draw(shapes, run_folder, num_images):
    found = sorted(str(path) for path in Path(shapes, "train").glob("*.png"))
    links = os.path.join(run_folder, "images")
    os.makedirs(links)
    paths = [os.path.join(links, f"{i:06d}.png") for i in range(num_images)]
    for i, path in enumerate(paths):
        os.symlink(found[i % len(found)], path)
    predictor = load_predictor(opts=["MODEL.WEIGHTS", run_folder, "MODEL.DEVICE", "cpu"])
    readings = Readings(num_images)
    step = 0

    def predict(*arguments, **options):
        nonlocal step
        step += 1
        readings.read(step)
        return predictor(*arguments, **options)

    # Detections are kept until the end, to be written: few, so that they do not hide a leak.
    run_on_images(predict, paths, os.path.join(run_folder, "drawn"), threshold=0.9)
    return readings

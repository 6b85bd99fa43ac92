"""From the figures of a data set to the keys of a config, each with its reason."""

import math
from dataclasses import dataclass
from typing import Any

from ..engine.solver import rate_factor
from ..errors import abbreviate

__all__ = ["Choice", "choose"]

_VIEWS = 6000  # images that training sees: 1,500 iterations of 4, as configs/quickstart/*.bccd.yaml
_FEWEST_EPOCHS = 12  # of the published 1x schedule
_EVALUATIONS = 10  # in a run
_WARMUP = 0.07  # of the run, as in configs/recipes/small_data.yaml
_LONGEST_WARMUP = 0.1
# That 19 of 20 objects keep, as in the config for BCCD: five cells of the finest map of stride 4.
_PIXELS = 21
_STEP = 16  # sizes are multiples of it, or those of the images
_SMALLEST_SIDE = 128
_LARGEST_SIDE = {"cpu": 480, "cuda": 800}
_LARGEST_K = 4  # proposals that learn from an object, in configs/quickstart/sparsercnn.yaml
_PROPOSALS = (20, 300)  # of the quickstart and of the largest published models


@dataclass
class Choice:
    """One line of the config."""

    key: str
    value: Any
    why: str  # a sentence, for the config
    figures: str = ""  # those that the value follows from, for --explain


def choose(figures, base, device):
    """Choose what depends on the data.

    Args:
        figures (Figures): of the images to train on.
        base (CfgNode): the config that the choices are laid over.
        device (str): "cpu" or "cuda".

    Returns:
        list[Choice]: in the order of the file.
    """
    proposals = _proposals(figures)
    choices = [_classes(figures), proposals]
    if base.MODEL.SparseRCNN.MATCHER.NAME == "optimal_transport":
        choices.append(_units(figures, proposals.value))
    return [*choices, *_sizes(figures, device), _flip(base), *_schedule(figures, base)]


def _classes(figures):
    counts = zip(figures.class_names, figures.class_counts, strict=True)
    listed = ", ".join(f"{name} {number:,} objects" for name, number in counts)
    return Choice(
        "MODEL.SparseRCNN.NUM_CLASSES",
        len(figures.class_names),
        f"In the order of their numbers: {abbreviate(figures.class_names, 10)}.",
        listed,
    )


def _proposals(figures):
    fewest, most = _PROPOSALS
    wanted = 10 * math.ceil(2 * figures.objects_99 / 10)
    number = min(max(wanted, fewest), most)
    why = (
        f"Twice the objects of an image: 99 of 100 images have at most {figures.objects_99:g}. The "
        "model finds no more objects than it has proposals."
    )
    if number < figures.objects_most:
        why += f" The fullest has {figures.objects_most}, of which it will miss some."
    return Choice(
        "MODEL.SparseRCNN.NUM_PROPOSALS",
        number,
        why,
        f"objects per image: {figures.objects_mean:.1f} on average, 95th percentile "
        f"{figures.objects_95:g}, 99th {figures.objects_99:g}, most {figures.objects_most}; "
        f"tens from {fewest} to {most}",
    )


def _units(figures, proposals):
    number = min(max(math.floor(proposals / max(figures.objects_95, 1)), 1), _LARGEST_K)
    return Choice(
        "MODEL.SparseRCNN.MATCHER.K",
        number,
        f"Proposals that learn from each object, up to {_LARGEST_K}: as many as {proposals} "
        "proposals allow in an image with many objects.",
        f"{proposals} proposals for {figures.objects_95:g} objects, the 95th percentile, are "
        f"{proposals / max(figures.objects_95, 1):.1f} each",
    )


def _sizes(figures, device):
    side, smallest = figures.side_median, figures.size_5
    wanted = side * _PIXELS / smallest if smallest else side
    limit = min(side, _LARGEST_SIDE[device])
    short = _STEP * math.ceil(max(wanted, _SMALLEST_SIDE) / _STEP)
    short = min(short, int(limit))
    long = _STEP * math.ceil(short * figures.aspect / _STEP)
    kept = smallest * short / side
    why = (
        "Shorter side, in pixels: as small as 19 of 20 objects allow, which then have at least "
        f"{kept:.0f} pixels (square root of the area). Larger is slower, and better for smaller "
        "objects."
    )
    numbers = (
        f"images: shorter side {side:g} (median), longer / shorter {figures.aspect:.2f}; objects: "
        f"5th percentile {smallest:.0f}, median {figures.size_median:.0f}; {_PIXELS} pixels for "
        f"the 5th percentile need {wanted:.0f}; from {_SMALLEST_SIDE} to {limit:g} on {device}"
    )
    limit_why = "Longer side, at most: that of images with the usual ratio of the sides."
    return [
        Choice("INPUT.MIN_SIZE_TRAIN", (short,), why, numbers),
        Choice("INPUT.MAX_SIZE_TRAIN", long, limit_why),
        Choice("INPUT.MIN_SIZE_TEST", short, "As in training."),
        Choice("INPUT.MAX_SIZE_TEST", long, ""),
    ]


def _flip(base):
    return Choice(
        "INPUT.RANDOM_FLIP",
        base.INPUT.RANDOM_FLIP,
        'Images are mirrored at random. Set "none" if left and right mean something, as in text, '
        'and "vertical" if up and down do not and left and right do.',
        "the recipe's; nothing in the data says whether mirrored images occur",
    )


def _schedule(figures, base):
    batch = min(base.SOLVER.IMS_PER_BATCH, figures.num_images)
    epochs = max(math.ceil(_VIEWS / figures.num_images), _FEWEST_EPOCHS)
    period = max(round(epochs / _EVALUATIONS), 1)
    images = batch * base.SOLVER.ACCUMULATE_STEPS  # of an iteration
    iterations = math.ceil(epochs * figures.num_images / images)
    more = "More may help."
    if base.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR":
        more = f"More may help; the rate falls to {base.SOLVER.BASE_LR_END:g} at the end."
    return [
        Choice("SOLVER.IMS_PER_BATCH", batch, "Images per iteration, on all GPUs together."),
        _rate(base.SOLVER, batch),
        Choice(
            "SOLVER.EPOCHS",
            epochs,
            f"Times through the {figures.num_images} images, {iterations:,} iterations in all. "
            f"{more}",
            f"{_VIEWS:,} images are seen, and each at least {_FEWEST_EPOCHS} times",
        ),
        *_warmup(base, iterations),
        Choice(
            "SOLVER.CHECKPOINT_EPOCHS",
            period,
            "Between checkpoints, and below between evaluations.",
            f"{_EVALUATIONS} times in the run",
        ),
        Choice(
            "SOLVER.PATIENCE",
            0,
            "Evaluations without a better AP after which training stops; 0: never. The last "
            "epochs, with the lowest rate, bring much.",
        ),
        Choice(
            "TEST.EVAL_EPOCHS",
            period,
            "The best model by AP is kept as model_best.pth.",
        ),
    ]


def _rate(solver, batch):
    rate, planned = solver.BASE_LR, solver.IMS_PER_BATCH
    if batch != planned:
        rate = float(f"{rate * rate_factor(solver.OPTIMIZER, batch / planned):.3g}")
    is_linear = solver.OPTIMIZER.upper() == "SGD"
    rule = "in proportion" if is_linear else "by the square root of the ratio"
    return Choice(
        "SOLVER.BASE_LR",
        rate,
        f"For this batch: with another one, change it {rule}.",
        f"{solver.BASE_LR:g} in _BASE_, for {planned} images per iteration",
    )


def _warmup(base, iterations):
    """Another warm-up where the base's, in iterations, is long for so short a run."""
    solver = base.SOLVER
    if solver.WARMUP_FRACTION is not None or _LONGEST_WARMUP * iterations > solver.WARMUP_ITERS:
        return []
    return [
        Choice(
            "SOLVER.WARMUP_FRACTION",
            _WARMUP,
            f"Of the run; the rate rises from near 0. The {solver.WARMUP_ITERS:,} iterations of "
            f"_BASE_ are for one of {solver.MAX_ITER:,}.",
            f"_BASE_'s warm-up is at least a tenth of the {iterations:,} iterations",
        )
    ]

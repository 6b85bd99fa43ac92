"""Draw training batches with their boxes and masks, as the augmentations of a config make them."""

import argparse
from pathlib import Path

from ..engine.arguments import add_model_arguments
from ..errors import ConfigError, parse_arguments, run_program
from ..extras import require_extra
from .logs import start_logs

EPILOG = """
The batches are the first ones of a training in one process with that config and SEED and with
DATALOADER.NUM_WORKERS 0 or 1: more loading processes share the images out to batches otherwise.

example:
  draw_batch.py --config-file quickstart/sparsercnn --output batch.png \\
      --opts INPUT.MOSAIC.ENABLED True INPUT.MOSAIC.PROB 1.0 SEED 1
"""


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument("--output", required=True, metavar="FILE", type=Path, help="PNG or JPEG")
    parser.add_argument(
        "--batches", type=int, default=2, metavar="N", help="drawn (%(default)s), a row for each"
    )
    return parser


def draw(args):
    """Load the batches and write the picture."""
    require_extra("headless", "cv2")
    from PIL import Image

    from ..analysis.batch import draw_samples
    from ..data import build_train_loader
    from ..data.slivers import LOST
    from ..engine.setup import load_model_config

    start_logs()
    if args.batches < 1:
        raise ConfigError(f"--batches is {args.batches}; it must be 1 or more.")
    if args.output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"--output {args.output} must end with .png or .jpg.")
    opts = [*args.opts, "DATALOADER.NUM_WORKERS", "0"]
    cfg = load_model_config(args.config_file, opts, allow_unsafe=args.allow_unsafe)
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty; set it with --opts.")
    batches = iter(build_train_loader(cfg))
    samples = [sample for _ in range(args.batches) for sample in next(batches)]
    picture = draw_samples(samples, cfg, columns=cfg.SOLVER.IMS_PER_BATCH)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(args.output)
    print(f"{args.output}: {len(samples)} images", end="")
    lost = [sample[LOST] for sample in samples if LOST in sample]
    if lost:
        vanished, slivers = map(sum, zip(*lost, strict=True))
        print(f"; objects that vanished: {vanished}, slivers: {slivers}", end="")
    print()


def main(argv=None):
    """Run the tool with `argv`, None for the arguments of the process; returns the exit status."""
    args = parse_arguments(get_parser(), argv)
    return run_program(draw, args)

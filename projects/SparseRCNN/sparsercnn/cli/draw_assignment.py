"""Draw the assignment of proposals to the objects of an image, for each stage."""

import argparse
from pathlib import Path

from ..engine.arguments import add_model_arguments
from ..errors import ConfigError, parse_arguments, run_program
from .logs import start_logs

EPILOG = """
Boxes have the colour of their object. The matcher is that of the config, even if the weights were
trained with another one; --opts MODEL.WEIGHTS '' shows an untrained model.

example:
  draw_assignment.py --config-file configs/quickstart/dynamic_sparsercnn.yaml --index 3 \\
      --output assignment.png --opts MODEL.WEIGHTS output/dynamic/model_final.pth
"""


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument("--output", required=True, metavar="FILE", type=Path, help="a PNG")
    parser.add_argument(
        "--dataset", metavar="NAME", help="annotated data set (default: first of DATASETS.TEST)"
    )
    parser.add_argument(
        "--index", type=int, default=0, metavar="I", help="index of the image (%(default)s)"
    )
    return parser


def draw(args):
    """Assign the objects of the image and write the picture."""
    from detectron2.data import MetadataCatalog
    from detectron2.data import detection_utils as utils
    from detectron2.modeling import build_model

    from ..analysis.assignment import assign, draw_assignment, load_annotated_image
    from ..engine.checkpoint import load_for_inference
    from ..engine.devices import check_devices
    from ..engine.setup import load_model_config

    start_logs()
    opts = args.opts
    if args.dataset:
        opts = [*opts, "DATASETS.TEST", repr((args.dataset,))]
    cfg = load_model_config(args.config_file, opts, allow_unsafe=args.allow_unsafe)
    check_devices(cfg)
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty; give a data set with --dataset.")
    dataset = cfg.DATASETS.TEST[0]
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        load_for_inference(model, cfg.MODEL.WEIGHTS, args.allow_unsafe)
    annotated_image = load_annotated_image(cfg, dataset, args.index)
    stages = assign(model, annotated_image)

    pixels = annotated_image["image"].permute(1, 2, 0)
    title = f"{Path(annotated_image['file_name']).name}, {cfg.MODEL.SparseRCNN.MATCHER.NAME}"
    figure = draw_assignment(
        utils.convert_image_to_rgb(pixels, cfg.INPUT.FORMAT),
        stages,
        annotated_image["instances"],
        MetadataCatalog.get(dataset).get("thing_classes", ()),
        title,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output)
    print(f"{args.output}: {title}, positives {[stage.num_positives for stage in stages]}")


def main(argv=None):
    """Run the tool with `argv`, None for the arguments of the process; returns the exit status."""
    args = parse_arguments(get_parser(), argv)
    return run_program(draw, args)

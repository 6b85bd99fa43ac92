"""Draw the position and channel attention of a dual-attention detector for one detection."""

import argparse
from pathlib import Path

from ..engine.arguments import add_model_arguments
from ..errors import parse_arguments, run_program
from .logs import start_logs

EPILOG = """
example:
  draw_attention.py --config-file configs/quickstart/dual_attention.yaml --input image.jpg \\
      --output attention.png --opts MODEL.WEIGHTS output/dual_attention/model_final.pth
"""


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument("--input", required=True, metavar="FILE", help="an image")
    parser.add_argument("--output", required=True, metavar="FILE", type=Path, help="a PNG")
    parser.add_argument(
        "--detection", type=int, default=0, metavar="K", help="rank of it, 0 the best (%(default)s)"
    )
    return parser


def draw(args):
    """Run the detector on the image and write the picture."""
    from ..analysis.attention import AttentionRecorder, draw_attention
    from ..inference.loading import load_predictor

    start_logs()
    predictor = load_predictor(args.config_file, args.opts, args.allow_unsafe)
    image = predictor.read(args.input)
    with AttentionRecorder(predictor.model) as recorder:
        predictor.predict(image)
    found, stages = recorder.detection(args.detection)
    name = predictor.labels.thing(found.pred_classes.item())
    title = f"detection {args.detection}: {name}, score {found.scores.item():.2f}"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw_attention(predictor.to_rgb(image), stages, title).savefig(args.output)
    print(f"{args.output}: {title}")


def main(argv=None):
    """Run the tool with `argv`, None for the arguments of the process; returns the exit status."""
    args = parse_arguments(get_parser(), argv)
    return run_program(draw, args)

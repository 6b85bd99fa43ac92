"""Draw a model's detections on images, a video or a camera. See demo/README.md."""

import argparse
import sys

from ..engine.arguments import add_model_arguments
from ..errors import MediaError, parse_arguments, run_program
from ..extras import require_extra
from .logs import start_logs

EPILOG = """
examples:
  demo.py --config-file configs/quickstart/sparsercnn.yaml --input a.jpg folder 'more/*.png' \\
      --output drawn --opts MODEL.WEIGHTS output/quickstart/model_final.pth
  demo.py --config-file cfg.yaml --video-input street.mp4 --output drawn --opts MODEL.WEIGHTS w.pth

exit status: 0 on success, 1 if some pictures were skipped, 2 if nothing could be done.
"""


def score(text):
    """Argument type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", metavar="PATH", help="images: files, folders or globs ('*.jpg')"
    )
    source.add_argument("--video-input", metavar="FILE", help="a video file")
    source.add_argument("--webcam", action="store_true", help="the first camera, in a window")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for drawn pictures and detections.json; without it, a window shows them",
    )
    lowest = parser.add_mutually_exclusive_group()
    lowest.add_argument(
        "--confidence-threshold",
        type=score,
        default=0.5,
        metavar="T",
        help="lowest score that is drawn and written (%(default)s)",
    )
    lowest.add_argument(
        "--thresholds",
        metavar="FILE",
        help="that of each class: thresholds.json, which tools/report.py writes",
    )
    return parser


def main(argv=None):
    """Run the demo with `argv`, None for the arguments of the process; returns the exit status."""
    parser = get_parser()
    args = parse_arguments(parser, argv)
    if args.webcam and args.output:
        parser.error("--webcam shows a window and writes no files; remove --output")
    return run_program(run, args)


def run(args):
    """Run as the command line asks; returns the exit status, 0 or 1."""
    require_extra("headless", "cv2")
    from ..image_files import find_images
    from ..inference.demo import run_on_camera, run_on_images, run_on_video
    from ..inference.loading import load_predictor
    from ..inference.thresholds import read_thresholds

    start_logs()
    threshold = read_thresholds(args.thresholds) if args.thresholds else args.confidence_threshold
    paths, without = find_images(args.input or [])
    if args.input and not paths:
        raise MediaError(f"--input names no images: {', '.join(args.input)}.")
    predictor = load_predictor(args.config_file, args.opts, args.allow_unsafe)
    if args.webcam:
        run_on_camera(predictor, threshold)
        return 0
    if args.video_input:
        run_on_video(predictor, args.video_input, args.output, threshold)
        return 0
    failed = run_on_images(predictor, paths, args.output, threshold)
    for pattern in without:
        print(f"No images in: {pattern}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(paths)} images could not be read.", file=sys.stderr)
    return 1 if failed or without else 0

"""Show models on a web page, and answer REST calls. See docs/web.md."""

import argparse
import dataclasses

from ..engine.arguments import add_opts_argument, add_unsafe_argument
from ..errors import ConfigError, parse_arguments, run_program
from .logs import start_logs

EPILOG = """
examples:
  web.py --model quickstart=output/quickstart
  web.py --model small=output/small --model large=large.onnx --port 8000
  web.py --model r50=r50_100pro_3x.pth --config-file r50=sparse_rcnn/sparsercnn.res50.100pro.3x
"""


def whole(text):
    """Argument type: a number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME=PATH",
        help="a model to choose: the folder of a run, a checkpoint, or an exported model; "
        "may be repeated",
    )
    parser.add_argument(
        "--config-file",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="config of the model NAME, if its checkpoint has none; may be repeated",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port, 0 for any (%(default)s)")
    parser.add_argument(
        "--max-megapixels", type=whole, default=16, metavar="N", help="of an image (%(default)s)"
    )
    parser.add_argument(
        "--max-frames", type=whole, default=300, metavar="N", help="of a video (%(default)s)"
    )
    parser.add_argument(
        "--max-waiting",
        type=whole,
        default=16,
        metavar="N",
        help="requests at once; more are refused (%(default)s)",
    )
    add_unsafe_argument(parser)
    add_opts_argument(parser, "config overrides for all models, such as MODEL.DEVICE cpu")
    return parser


def main(argv=None):
    """Serve with `argv`, None for the arguments of the process; returns the exit status."""
    return run_program(run, parse_arguments(get_parser(), argv))


def run(args):
    """Serve as the command line asks, until interrupted."""
    start_logs()
    try:
        from ..serve.app import serve
        from ..serve.limits import Limits
        from ..serve.models import load_models, parse_named
    except ImportError as error:
        raise ConfigError(str(error)) from error
    limits = dataclasses.replace(
        Limits(),
        image_pixels=args.max_megapixels * 10**6,
        video_frames=args.max_frames,
        waiting=args.max_waiting,
    )
    sources = parse_named(args.model, "--model")
    configs = parse_named(args.config_file, "--config-file")
    models = load_models(sources, configs, args.opts, args.allow_unsafe, limits)
    serve(models, args.host, args.port)

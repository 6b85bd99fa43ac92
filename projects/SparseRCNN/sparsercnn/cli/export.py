"""Write a trained model to a file for another runtime: see docs/export.md.

The file is compared with the model in PyTorch, on one picture, before it is put in its place.
"""

import argparse

from ..engine.arguments import add_model_arguments
from ..errors import ConfigError, parse_arguments, run_program
from .logs import start_logs

EPILOG = """
examples:
  export.py --config-file configs/quickstart/sparsercnn.yaml --format onnx --output model.onnx \\
      --opts MODEL.WEIGHTS output/quickstart/model_final.pth
  export.py --config-file cfg.yaml --format openvino --output model.xml \\
      --int8 --calibration-images 'train/*.jpg' --opts MODEL.WEIGHTS model_final.pth
"""

_ENDINGS = {"torch_export": ".pt2", "onnx": ".onnx", "openvino": ".xml"}


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    endings = ", ".join(f"{name} ({ending})" for name, ending in _ENDINGS.items())
    parser.add_argument("--format", required=True, choices=_ENDINGS, help=endings)
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--input-dtype",
        choices=("uint8", "float32"),
        help="of the images; uint8 unless INPUT.FORMAT has fractions",
    )
    parser.add_argument("--int8", action="store_true", help="quantise; needs --calibration-images")
    parser.add_argument(
        "--calibration-images",
        nargs="+",
        default=[],
        metavar="PATH",
        help="files, folders or globs: some 300 images like those that the model will see",
    )
    parser.add_argument(
        "--image", metavar="FILE", help="the picture of the comparison; by default a drawn one"
    )
    return parser


def main(argv=None):
    """Run the tool with `argv`, None for the arguments of the process; returns the exit status."""
    return run_program(run, parse_arguments(get_parser(), argv))


def run(args):
    """Export as the command line asks, and print the largest differences."""
    from detectron2.data.detection_utils import build_augmentation
    from detectron2.modeling import build_model

    from ..engine.checkpoint import load_for_inference
    from ..engine.checkpoint_files import is_exported
    from ..engine.setup import load_demo_config
    from ..export import load_exported
    from ..export.check import compare, example_image, require_same
    from ..export.exporters import export_model
    from ..export.quantization import read_images
    from ..inference.class_names import choose_class_names
    from ..inference.predictor import Predictor

    start_logs()
    if args.int8 != bool(args.calibration_images):
        raise ConfigError("--int8 and --calibration-images need each other; give both or none.")
    cfg = load_demo_config(
        args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"], allow_unsafe=args.allow_unsafe
    )
    if is_exported(cfg.MODEL.WEIGHTS):
        raise ConfigError(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is exported already.")
    model = build_model(cfg).eval()
    description = load_for_inference(model, cfg.MODEL.WEIGHTS, args.allow_unsafe)
    predictor = Predictor(
        model=model,
        augmentations=build_augmentation(cfg, is_train=False),
        input_format=cfg.INPUT.FORMAT,
        labels=choose_class_names(cfg, description),
    )
    calibration = read_images(predictor, _find(args.calibration_images)) if args.int8 else None
    image = predictor.read(args.image) if args.image else example_image(cfg.INPUT.FORMAT)
    expected = predictor.predict(image)

    def check(path):
        predictor.model = load_exported(path)
        differences = compare(expected, predictor.predict(image))
        if not args.int8:
            require_same(differences, args.output)
        return differences

    differences = export_model(
        cfg,
        model,
        predictor.labels,
        args.format,
        args.output,
        input_dtype=args.input_dtype,
        calibration=calibration,
        check=check,
    )
    print(f"{args.output}: differs from the model in PyTorch by at most {differences}.")


def _find(patterns):
    from ..image_files import find_images

    paths, without = find_images(patterns)
    if without:
        raise ConfigError(f"--calibration-images: no images in {', '.join(without)}.")
    return paths

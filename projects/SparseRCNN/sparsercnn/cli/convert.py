"""Convert weights of mmdetection, torchvision, timm or MAE to this project's names, or back; or its
own checkpoints to the format safetensors.

If no rule covers some weights, an error names them all and nothing is written.
"""

import argparse

from ..errors import parse_arguments, run_program

EPILOG = """
examples:
  convert.py --from torchvision resnet101-63fe2227.pth torchvision-R-101.pth
  convert.py --from mae mae_pretrain_vit_base.pth vit.pth
  convert.py --from mmdetection sparse_rcnn_r50_fpn_1x_coco.pth sparse_rcnn.pth
  convert.py --from mmdetection cascade_msca_adp.pth cascade.pth
  convert.py --from mmdetection any_detector.pth backbone.pth --only backbone. neck.
  convert.py --from sparsercnn model_final.pth model.safetensors
  convert.py --from mmdetection --reverse model_final.pth for_mmdetection.pth
"""

_LAYOUTS = ("mae", "mmdetection", "sparsercnn", "timm", "torchvision")


def get_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a .pth, .pkl or .safetensors file")
    parser.add_argument("target", help="the .pth or .safetensors file to write, for MODEL.WEIGHTS")
    parser.add_argument(
        "--from",
        dest="layout",
        required=True,
        choices=_LAYOUTS,
        help="the code base of the weights",
    )
    parser.add_argument(
        "--backbone-prefix",
        default="backbone.bottom_up.",
        metavar="NAME",
        help="for torchvision, timm and mae: prefix of our backbone's names; 'backbone.' for "
        "models without a neck, such as DANet (%(default)s)",
    )
    parser.add_argument(
        "--mask-stage",
        type=int,
        choices=range(3),
        help="mask head of mmdetection's cascade to convert, for a model with a single one "
        "(ROI_HEADS.NAME CascadeROIHeads); by default all three, for CascadeMaskROIHeads",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="PREFIX",
        help="convert only weights whose names in the source begin with one of these",
    )
    parser.add_argument(
        "--reverse", action="store_true", help="convert from our names to those of --from"
    )
    parser.add_argument(
        "--allow-unsafe",
        action="store_true",
        help="load any pickle; only for files that you trust, since they can run code",
    )
    return parser


def main(argv=None):
    """Run the tool with `argv`, None for the arguments of the process; returns the exit status."""
    return run_program(run, parse_arguments(get_parser(), argv))


def run(args):
    """Convert as the command line asks, and print a summary."""
    from ..conversion import LAYOUTS, convert_file

    result = convert_file(
        args.source,
        args.target,
        args.layout,
        backbone=args.backbone_prefix,
        mask_stage=args.mask_stage,
        only=args.only,
        reverse=args.reverse,
        allow_unsafe=args.allow_unsafe,
    )
    print(f"{args.target}: {len(result.weights)} weights")
    for reason, number in result.dropped.items():
        print(f"left out: {number} ({reason})")
    if not args.reverse and LAYOUTS[args.layout].settings:
        print(f"The config must have these settings, for {LAYOUTS[args.layout].settings}")

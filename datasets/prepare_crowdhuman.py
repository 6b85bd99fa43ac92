#!/usr/bin/env python3
"""Convert CrowdHuman's annotations to COCO's format, for `CrowdHuman_train` and `CrowdHuman_val`.

    python datasets/prepare_crowdhuman.py [ROOT]

ROOT, by default `crowdhuman` in $DETECTRON2_DATASETS or in `datasets`, must hold
annotation_{train,val}.odgt and the images in CrowdHuman_{train,val}/.
"""

import argparse
import os
import sys

from sparsercnn.data.crowdhuman import convert_crowdhuman, missing_files
from sparsercnn.data.files import datasets_root
from sparsercnn.errors import DataError, abbreviate, parse_arguments, run_program


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", nargs="?", default=os.path.join(datasets_root(), "crowdhuman"))
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=("train", "val"))
    return run_program(prepare, parse_arguments(parser))


def prepare(args):
    missing = missing_files(args.root, args.splits)
    if missing:
        raise DataError(f"Missing, see datasets/README.md: {abbreviate(missing)}.")
    for split in args.splits:
        counts = convert_crowdhuman(args.root, split)
        summary = ", ".join(f"{number} {what}" for what, number in counts.items())
        print(f"{os.path.join(args.root, 'annotations', split)}.json: {summary}")


if __name__ == "__main__":
    sys.exit(main())

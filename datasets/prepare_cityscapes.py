#!/usr/bin/env python3
"""Make the label maps of `cityscapes_fine_sem_seg_train` and `cityscapes_fine_sem_seg_val`.

    python datasets/prepare_cityscapes.py [ROOT]

ROOT, by default `cityscapes` in $DETECTRON2_DATASETS or in `datasets`, must hold the contents of
leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip. A *_gtFine_labelTrainIds.png with the 19
evaluated classes is written beside each annotation; existing ones are kept.
"""

import argparse
import os
import sys

from sparsercnn.data.cityscapes import NUM_IMAGES, count_images, make_train_ids, missing_files
from sparsercnn.data.files import datasets_root
from sparsercnn.errors import DataError, abbreviate, parse_arguments, run_program


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", nargs="?", default=os.path.join(datasets_root(), "cityscapes"))
    parser.add_argument(
        "--splits", nargs="+", choices=("train", "val", "test"), default=("train", "val")
    )
    parser.add_argument(
        "--from-polygons",
        action="store_true",
        help="draw the polygons, as Cityscapes' own script does, instead of mapping label ids",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing label maps")
    parser.add_argument("--workers", type=int, help="number of threads")
    return run_program(prepare, parse_arguments(parser))


def prepare(args):
    missing = missing_files(args.root, args.splits)
    if missing:
        raise DataError(f"Missing, see datasets/README.md: {abbreviate(missing)}.")
    for split in args.splits:
        number, expected = count_images(args.root, split), NUM_IMAGES.get(split)
        if expected not in (None, number):
            print(f"{split}: {number} of the {expected} images in Cityscapes")
        counts = make_train_ids(args.root, split, args.from_polygons, args.overwrite, args.workers)
        print(f"{split}: {counts['written']} label maps written, {counts['kept']} kept")


if __name__ == "__main__":
    sys.exit(main())

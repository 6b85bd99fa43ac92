"""The steps from a folder to a config: read, divide, check, count, choose, write."""

import contextlib
import os
from dataclasses import dataclass, field

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.image_check import image_problem
from ..data.registration import register_datasets
from ..data.validation import leave_out_invalid
from ..engine.schedule import schedule_in_iterations
from ..engine.setup import load_config
from ..errors import ConfigError, DataError
from ..files import write_atomically, write_json
from .base import model_choices, read_base
from .choices import Choice, choose
from .duplicates import best_twins, group_similar, thumbnails
from .earlier_runs import CONFIG_FILE, MADE_BY
from .figures import Figures, count
from .formats import read_source
from .split import divide
from .splits import choose_splits
from .writing import to_yaml

__all__ = ["Options", "Project", "make_project"]

_DATA = "data"  # folder of converted annotations
_MOST_INVALID = 0.1  # share of images and objects; with more, the data has been misread
_SIMILAR = 0.95
_DEVICES = {
    "auto": "A GPU if there is one.",
    "cpu": "As asked for.",
    "cuda": "As asked for.",
}


@dataclass
class Options:
    """What the command line says."""

    data: str  # folder, or file of annotations
    output: str  # folder to make
    format: str | None = None  # of the annotations
    images: str | None = None  # folder of the images
    train: str | None = None  # names of splits
    val: str | None = None
    val_fraction: float = 0.2  # of a split that is made
    seed: int = 0
    weights: str = ""  # checkpoint to start from, or the folder of a run
    config_file: str = ""  # in place of the recipe
    device: str = "auto"  # or "cpu" or "cuda": what the size of the images is chosen for
    allow_unsafe: bool = False


@dataclass
class Project:
    """What was written, and what is to be told about it."""

    config_file: str
    format: str
    figures: Figures
    choices: list  # of Choice
    notes: list = field(default_factory=list)  # sentences
    test_entry: str | None = None  # of DATASETS, for a last evaluation


def make_project(options):
    """Write the folder of a run: its config and, where they are needed, converted annotations.

    Args:
        options (Options): what is asked for.

    Returns:
        Project: what was done. Nothing is written beside the data.

    Raises:
        DataError: the data cannot be read, divided or used.
        ConfigError: the output folder has a config already; or see
            :func:`~sparsercnn.start.base.read_base`.
    """
    output = os.path.abspath(options.output)
    config_file = os.path.join(output, CONFIG_FILE)
    if os.path.exists(config_file):
        raise ConfigError(f"{config_file} exists. Choose another --output, or remove that file.")
    base = read_base(options.config_file, options.weights, options.allow_unsafe)
    with _removed_on_failure(os.path.join(output, _DATA)):
        return _make(options, base, output, config_file)


def _make(options, base, output, config_file):
    source = read_source(options.data, options.format, options.images, leave_out=output)
    chosen = choose_splits(source.splits, options.train, options.val)
    notes = [*source.notes, *chosen.notes]
    if chosen.val is None:
        train, val = _made_split(source.splits[chosen.train], options, output, notes)
    else:
        train, val = (_entry(source.splits[x], x, output) for x in (chosen.train, chosen.val))
    train_records, val_records = _load(train), _load(val)
    if not (_has_masks(train_records) and _has_masks(val_records)):
        base = base.without_masks_of_weights()
    if base.mask_format == "polygon" and _has_run_lengths(train_records):
        base = base.with_bitmasks()
    mask_format = base.mask_format
    train_records, num_invalid = _checked(train, train_records, mask_format, notes)
    # Evaluation reads both formats.
    val_records, more = _checked(val, val_records, mask_format and "bitmask", notes)
    if chosen.val is not None:
        _compare_splits(train_records, val_records, notes)
    class_names = MetadataCatalog.get(train).thing_classes
    figures = count(train_records, len(val_records), class_names)
    _check_classes(figures, val, val_records, notes)
    test = chosen.test and _entry(source.splits[chosen.test], chosen.test, output)
    choices = [
        *_data_choices(train, val, num_invalid + more > 0),
        *model_choices(base),
        *choose(figures, base.cfg, _device(options)),
        *_run_choices(options, output),
    ]
    title = (
        f"{MADE_BY} from {os.path.abspath(options.data)} ({source.format}): "
        f"{figures.num_images} images to train on, {figures.num_val_images} to evaluate on. Change "
        "what you like; all other keys are those of _BASE_."
    )
    os.makedirs(output, exist_ok=True)
    with write_atomically(config_file, "w") as file:
        file.write(to_yaml(choices, title, base.file))
    # Fail here rather than in training.
    schedule_in_iterations(load_config(config_file), figures.num_images)
    return Project(config_file, source.format, figures, choices, notes, test)


@contextlib.contextmanager
def _removed_on_failure(folder):
    """Remove the new files of a folder if the block fails: the next start would read them."""
    before = set(os.listdir(folder)) if os.path.isdir(folder) else None
    try:
        yield
    except BaseException:
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if name not in (before or ()):
                os.remove(os.path.join(folder, name))
        if before is None and os.path.isdir(folder):
            os.rmdir(folder)
        raise


def _made_split(split, options, output, notes):
    content = split.load()
    paths = [os.path.join(split.image_root, image["file_name"]) for image in content["images"]]
    groups = group_similar(paths)
    parts = divide(content, groups.index, options.val_fraction, options.seed)
    numbers = " and ".join(str(len(part["images"])) for part in parts)
    notes.append(
        f"The data has no split: its images were divided into {numbers}, with seed {options.seed}, "
        "so that each class has its share on both sides."
    )
    if groups.level is None:
        notes.append(
            "All images look nearly the same, as from a camera that does not move: neighbouring "
            "ones may be on both sides, and AP higher than on new pictures. Better give splits of "
            "different times or places."
        )
    elif groups.num_similar:
        notes.append(
            f"{groups.num_similar} images have others that look nearly the same (correlation above "
            f"{groups.level}); these stay on one side."
        )
    names = ("train", "val")
    return [_written(x, split, name, output) for x, name in zip(parts, names, strict=True)]


def _entry(split, name, output):
    """The DATASETS entry of a split; it is converted if the project does not read its files."""
    return split.entry or _written(split.load(), split, name, output)


def _written(content, split, name, output):
    folder = os.path.join(output, _DATA)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{name.replace(os.sep, '_')}.json")
    write_json(path, content)
    return f"coco:{path}@{split.image_root}"


def _load(entry):
    register_datasets([entry])
    return DatasetCatalog.get(entry)


def _has_masks(records):
    objects = [x for record in records for x in record["annotations"]]
    return not objects or any(x.get("segmentation") for x in objects)


def _has_run_lengths(records):
    """Whether a mask to train on, so not that of a crowd, is run-length encoded (RLE)."""
    objects = (x for record in records for x in record["annotations"])
    return any(isinstance(x.get("segmentation"), dict) and not x.get("iscrowd") for x in objects)


def _checked(entry, records, mask_format, notes):
    """The valid records of an entry, and how many images and objects are left out, which is logged
    and noted."""
    if mask_format:
        _require_masks(entry, records)
    total = len(records) + sum(len(record["annotations"]) for record in records)
    valid, num_left_out = leave_out_invalid(
        records, entry, skip_invalid=True, mask_format=mask_format, extra_check=image_problem
    )
    if num_left_out > max(_MOST_INVALID * total, 1) or not valid:
        raise DataError(
            f"{entry}: {num_left_out} of {total} images and objects are invalid, see above. Either "
            "the data was misread, then choose by --format or --images, or it must be corrected."
        )
    if num_left_out:
        notes.append(
            f"{num_left_out} invalid images or objects of {entry} are left out, see above."
        )
    return valid, num_left_out


def _require_masks(entry, records):
    objects = [x for record in records for x in record["annotations"]]
    without = sum(not x.get("segmentation") for x in objects)
    if without > _MOST_INVALID * len(objects):
        raise DataError(
            f"{entry}: {without} of {len(objects)} objects have no mask, which the model needs "
            "(MODEL.MASK_ON). Choose one without masks by --config-file; of formats, COCO json "
            "alone is read with masks."
        )


def _compare_splits(train, val, notes):
    vectors = [thumbnails([record["file_name"] for record in part]) for part in (val, train)]
    twins, correlations = best_twins(*vectors)
    inside = (correlations > _SIMILAR).nonzero()[0]
    if len(inside):
        pair = f"{val[inside[0]]['file_name']} and {train[twins[inside[0]]]['file_name']}"
        notes.append(
            f"{len(inside)} of the {len(val)} images to evaluate on look nearly the same as an "
            f"image to train on, such as {pair}: AP will be higher than on new pictures."
        )


def _check_classes(figures, val, records, notes):
    names = MetadataCatalog.get(val).thing_classes
    if list(names) != figures.class_names:
        raise DataError(
            f"The splits differ in their classes: {', '.join(figures.class_names)} to train on, "
            f"{', '.join(names)} to evaluate on."
        )
    objects = [x for record in records for x in record["annotations"]]
    in_val = {x["category_id"] for x in objects if not x.get("iscrowd", 0)}
    if not figures.num_objects:
        raise DataError("No image to train on has an object.")
    for k, (name, number) in enumerate(zip(figures.class_names, figures.class_counts, strict=True)):
        if not number:
            notes.append(f"The class {name} has no object to train on.")
        elif k not in in_val:
            notes.append(f"The class {name} has no object to evaluate on: AP leaves it out.")


def _data_choices(train, val, skip):
    choices = [
        Choice("DATASETS.TRAIN", (train,), "Images to train on."),
        Choice("DATASETS.TEST", (val,), "Images to evaluate on, which choose the best model."),
    ]
    if skip:
        why = "Invalid images or objects were found and listed; training leaves them out."
        choices.append(Choice("DATASETS.SKIP_INVALID", True, why))
    return choices


def _device(options):
    found = "cuda" if torch.cuda.is_available() else "cpu"
    return found if options.device == "auto" else options.device


def _run_choices(options, output):
    return [
        Choice("MODEL.DEVICE", options.device, _DEVICES[options.device]),
        Choice("SEED", options.seed, "Of the first weights and the order of the images."),
        Choice("OUTPUT_DIR", os.path.join(output, "run"), "Checkpoints, logs and results."),
    ]

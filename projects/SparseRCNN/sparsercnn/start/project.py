"""The steps from a folder to a config: read, divide, check, count, choose, write."""

import json
import os
from dataclasses import dataclass, field

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config_files import find_config
from ..conversion.pretrained import pretrained_source
from ..data.image_check import image_problem
from ..data.registration import register_datasets
from ..data.validation import leave_out_invalid
from ..engine.checkpoint_files import find_weights
from ..engine.overrides import flatten
from ..engine.schedule import schedule_in_iterations
from ..engine.setup import load_config, load_model_config
from ..errors import ConfigError, DataError
from ..files import write_atomically, write_json
from .choices import Choice, choose
from .duplicates import group_similar, similar_pairs, thumbnails
from .figures import Figures, count
from .formats import read_source
from .split import divide
from .splits import choose_splits
from .writing import to_yaml

__all__ = ["Options", "Project", "make_project"]

RECIPE = "recipes/small_data"
CONFIG_FILE = "config.yaml"
_MOST_INVALID = 0.1  # share of images and objects; with more, the data has been misread
_SIMILAR = 0.95
_DEVICES = {
    "auto": "A GPU if there is one.",
    "cpu": "As asked for.",
    "cuda": "As asked for.",
}
# Sections of MODEL that a checkpoint brings along, and keys of them that are for the data or the
# training instead.
_ARCHITECTURE = ("MODEL.BACKBONE", "MODEL.RESNETS", "MODEL.FPN", "MODEL.ROI_", "MODEL.SparseRCNN")
_ARCHITECTURE += ("MODEL.TIMM", "MODEL.VIT")
_INPUT = ("MODEL.META_ARCHITECTURE", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT")
_NOT_ARCHITECTURE = (
    "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.TIMM.PRETRAINED",  # the checkpoint has these weights
    "MODEL.VIT.PRETRAINED",
    "MODEL.SparseRCNN.MATCHER.",
    "MODEL.SparseRCNN.NUM_CLASSES",
    "MODEL.SparseRCNN.NUM_PROPOSALS",
    "MODEL.SparseRCNN.NMS_THRESH_TEST",
    "MODEL.SparseRCNN.SCORE_THRESH_TEST",
    "MODEL.SparseRCNN.PROPOSALS.INIT",
)


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
        ConfigError: the output folder has a config already, or the weights have none.
    """
    output = os.path.abspath(options.output)
    config_file = os.path.join(output, CONFIG_FILE)
    if os.path.exists(config_file):
        raise ConfigError(f"{config_file} exists. Choose another --output, or remove that file.")
    base_file, base, from_weights = _base(options)
    source = read_source(options.data, options.format, options.images, leave_out=output)
    chosen = choose_splits(source.splits, options.train, options.val)
    notes = [*source.notes, *chosen.notes]
    if chosen.val is None:
        train, val = _made_split(source.splits[chosen.train], options, output, notes)
    else:
        train, val = (_entry(source.splits[x], x, output) for x in (chosen.train, chosen.val))
    (train_records, num_invalid), (val_records, more) = _checked(train, notes), _checked(val, notes)
    if chosen.val is not None:
        _compare_splits(train_records, val_records, notes)
    class_names = MetadataCatalog.get(train).thing_classes
    figures = count(train_records, len(val_records), class_names)
    _check_classes(figures, val, val_records, notes)
    test = chosen.test and _entry(source.splits[chosen.test], chosen.test, output)
    choices = [
        *_data_choices(train, val, num_invalid + more > 0),
        *_model_choices(from_weights, base),
        *choose(figures, base, _device(options)),
        *_run_choices(options, output),
    ]
    title = (
        f"Made by `sparsercnn start` from {os.path.abspath(options.data)} ({source.format}): "
        f"{figures.num_images} images to train on, {figures.num_val_images} to evaluate on. Change "
        "what you like; all other keys are those of _BASE_."
    )
    os.makedirs(output, exist_ok=True)
    with write_atomically(config_file, "w") as file:
        file.write(to_yaml(choices, title, base_file))
    # Fail here rather than in training.
    schedule_in_iterations(load_config(config_file), figures.num_images)
    return Project(config_file, source.format, figures, choices, notes, test)


def _base(options):
    """The file of the config to start from, its content, and the keys of the weights' model."""
    file = os.path.abspath(find_config(options.config_file or RECIPE))
    base = load_config(file, allow_unsafe=options.allow_unsafe, register=False)
    if not options.weights:
        return file, base, {}
    if options.config_file:
        return file, base, {"MODEL.WEIGHTS": _checkpoint(options.weights)}
    opts = ["MODEL.WEIGHTS", options.weights]
    trained = load_model_config("", opts, options.allow_unsafe, register=False)
    known = dict(flatten(base))
    differing = {
        key: value
        for key, value in flatten(trained)
        if (key.startswith(_ARCHITECTURE) or key in _INPUT)
        and not key.startswith(_NOT_ARCHITECTURE)
        # As json, since YAML has no tuples.
        and json.dumps(known.get(key)) != json.dumps(value)
    }
    return file, base, {**differing, "MODEL.WEIGHTS": _checkpoint(trained.MODEL.WEIGHTS)}


def _checkpoint(path):
    """What training takes as MODEL.WEIGHTS, from wherever it is started."""
    if "://" in path:
        return path
    path = os.path.abspath(find_weights(path) if os.path.isdir(path) else path)
    if not os.path.isfile(path):
        raise ConfigError(f"The weights {path} do not exist. Give --weights a file or a run.")
    return path


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
    folder = os.path.join(output, "data")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{name.replace(os.sep, '_')}.json")
    write_json(path, content)
    return f"coco:{path}@{split.image_root}"


def _checked(entry, notes):
    """The valid records of an entry, and how many images and objects are left out, which is logged
    and noted."""
    register_datasets([entry])
    records = DatasetCatalog.get(entry)
    total = len(records) + sum(len(record["annotations"]) for record in records)
    valid, num_left_out = leave_out_invalid(
        records, entry, skip_invalid=True, extra_check=image_problem
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


def _compare_splits(train, val, notes):
    vectors = [thumbnails([record["file_name"] for record in part]) for part in (val, train)]
    inside, twins = similar_pairs(*vectors, _SIMILAR)
    number = len(set(inside.tolist()))
    if number:
        pair = f"{val[inside[0]]['file_name']} and {train[twins[0]]['file_name']}"
        notes.append(
            f"{number} of the {len(val)} images to evaluate on look nearly the same as an image to "
            f"train on, such as {pair}: AP will be higher than on new pictures."
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


def _model_choices(from_weights, base):
    weights = from_weights.pop("MODEL.WEIGHTS", None)
    pretrained = pretrained_source(base)
    if weights is not None:
        why = "From this model; what does not fit the classes of the data is learned anew."
    elif base.MODEL.WEIGHTS:
        why = "Those of _BASE_, which its model starts from."
    elif pretrained:
        why = f"None: as in _BASE_, the backbone starts from its PRETRAINED, {pretrained}."
    else:
        why = (
            "No weights: the model learns from scratch. With weights of a similar job it is better."
        )
    choices = [Choice("MODEL.WEIGHTS", base.MODEL.WEIGHTS if weights is None else weights, why)]
    for key, value in from_weights.items():
        choices.append(Choice(key, value, "As in the model of MODEL.WEIGHTS."))
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

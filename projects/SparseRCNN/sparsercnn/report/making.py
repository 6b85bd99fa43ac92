"""From a command line to the folder of a report."""

import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog

from ..analysis.attention import AttentionRecorder, draw_attention
from ..analysis.charts import to_picture
from ..data import build_test_loader, register_datasets
from ..data.classes import require_registered
from ..engine.devices import check_devices
from ..engine.setup import load_model_config
from ..errors import ConfigError, DataError, UserError, abbreviate
from ..inference.predictor import Predictor
from .exports import export
from .inference import Run, run_model
from .records import read_detections, read_truth
from .result import analyse
from .writing import write_report

__all__ = [
    "Options",
    "Source",
    "check_folder",
    "empty_folder",
    "load_source",
    "make_report",
    "refuse_lvis",
]

_OURS = ("boxes", "exports", "figures", "pictures", "tables", "thumbnails")
_FILES = ("index.html", "browse.html", "index.js", "thresholds.json", "thresholds_2.json")
_MARK = "browse.js"  # a file of every report
_ATTENTION_IMAGES = 3


@dataclass
class Options:
    """What the command line says."""

    output: str
    config_file: str = ""
    opts: list = field(default_factory=list)  # KEY VALUE pairs
    allow_unsafe: bool = False
    dataset: str = ""  # in place of the config's
    predictions: str = ""  # COCO results, in place of a model
    compare: str = ""  # a second model, or its COCO results
    compare_config_file: str = ""
    names: tuple = ("model", "second model")
    resamples: int = 500
    seed: int = 0
    export: tuple = ()  # formats
    export_threshold: float | None = None
    max_images: int = 5000
    picture_size: int = 640


@dataclass
class Source:
    """A model, or what one has found, and the data set."""

    dataset: str
    predictor: Predictor | None = None
    predictions: str = ""

    def run(self, truth):
        """Run: of the model, or read from the file."""
        if self.predictor is None:
            return Run(read_detections(self.predictions, truth), [], None, None)
        return run_model(self.predictor, truth)


def make_report(options):
    """Write a report.

    Args:
        options (Options): what is asked for.

    Returns:
        Path: of `index.html`.

    Raises:
        ConfigError: there is no model, the output folder holds other files, or an option is wrong.
        DataError: the data set has no objects or is LVIS's, or it or a file of predictions cannot
            be used.
    """
    folder = Path(options.output)
    check_folder(folder)
    if options.predictions:
        first = load_predictions(options.predictions, options.dataset)
    else:
        first = load_source(options, options.config_file, options.opts, options.dataset)
    refuse_lvis(first.dataset, "Use the evaluation's metrics.")
    sources = [first]
    if options.compare.endswith(".json"):
        sources.append(load_predictions(options.compare, first.dataset))
    elif options.compare:
        opts = [*options.opts, "MODEL.WEIGHTS", options.compare]
        sources.append(load_source(options, options.compare_config_file, opts, first.dataset))
    truth = read_truth(first.dataset)
    if truth.crowd.all():  # also of none
        raise DataError(
            f"{first.dataset} has no objects to compare with; average precision needs some."
        )
    results, pictures = [], []
    for source, name in zip(sources, options.names, strict=False):
        run = source.run(truth)
        results.append(analyse(name, truth, run, options.resamples, options.seed))
        if source.predictor is not None and not pictures:
            pictures = _attention_maps(source.predictor, results[-1])
    empty_folder(folder)
    index, unreadable = write_report(
        results, folder, pictures, options.max_images, options.picture_size
    )
    if unreadable:
        logging.getLogger(__name__).warning(
            f"{len(unreadable)} images cannot be read and have no picture: {abbreviate(unreadable)}"
        )
    _export(options, results[0], folder)
    return index


def check_folder(folder):
    """Make a folder, or see whether a report may be written into it.

    Raises:
        ConfigError: it holds other files than those of an earlier report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / _MARK).exists():
        raise ConfigError(f"{folder} holds other files. Give another --output, or empty it.")


def empty_folder(folder):
    """Remove what an earlier report has left in a folder, which :func:`check_folder` has seen.

    Only once all is read and computed: the earlier report may be what is read, and it is to be
    there still if something cannot be.
    """
    for name in _OURS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    # From now on the folder is a report's, even if this one is interrupted.
    (folder / _MARK).touch()


def refuse_lvis(dataset, remedy):
    """Refuse a data set by whose rules a detection without an object may be right.

    Args:
        dataset (str): a registered data set.
        remedy (str): what to do instead.

    Raises:
        DataError: it is in LVIS's format.
    """
    if MetadataCatalog.get(dataset).get("evaluator_type") == "lvis":
        raise DataError(
            f"{dataset}: a detection without an object counts as wrong here, but LVIS's images are "
            f"labelled with some classes only. {remedy}"
        )


def load_predictions(path, dataset):
    """Predictions in a file, of a data set that must be named.

    Returns:
        Source: without a model.

    Raises:
        ConfigError: `dataset` is empty.
        DataError: it is not registered, or an entry that cannot be read.
    """
    if not dataset:
        raise ConfigError(f"{path} does not say which images it is of; name them by --dataset.")
    register_datasets([dataset])
    require_registered(dataset)
    return Source(dataset, predictions=os.fspath(path))


def load_source(options, config_file, opts, dataset=""):
    """A trained model and its data set.

    Args:
        options: with `allow_unsafe`.
        config_file (str): "" for that of the checkpoint.
        opts (list[str]): KEY VALUE pairs.
        dataset (str): "" for the first of DATASETS.TEST.

    Returns:
        Source: with the data set as its evaluation sees it.

    Raises:
        ConfigError, CheckpointError, DataError: it cannot be loaded.
    """
    opts = [*opts, *(["DATASETS.TEST", repr((dataset,))] if dataset else [])]
    # The images that it was trained on need not be here.
    cfg = load_model_config(config_file, opts, options.allow_unsafe, register=False)
    check_devices(cfg)
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty; name a data set by --dataset.")
    name = cfg.DATASETS.TEST[0]
    register_datasets([name])
    require_registered(name)
    build_test_loader(cfg, name)  # checks the data, and leaves out what evaluation leaves out
    return Source(name, Predictor(cfg, allow_unsafe=options.allow_unsafe))


def _attention_maps(predictor, result):
    """Pictures of the attention to the best detection of a few images; [] without attention."""
    try:
        AttentionRecorder(predictor.model)
    except UserError:
        return []
    pictures = []
    best_first = result.detections.image[np.argsort(-result.detections.scores, kind="stable")]
    for i in dict.fromkeys(best_first.tolist()):
        image = predictor.read(result.truth.files[i])
        with AttentionRecorder(predictor.model) as recorder:
            predictor.predict(image)
        found, stages = recorder.detection(0)
        name = predictor.labels.thing(found.pred_classes.item())
        title = f"{Path(result.truth.files[i]).name}: {name}, score {found.scores.item():.2f}"
        figure = draw_attention(predictor.to_rgb(image), stages, title)
        number = len(pictures) + 1
        pictures.append(to_picture(figure, f"attention_{number}.png", f"Attention, {title}"))
        if number == _ATTENTION_IMAGES:
            break
    return pictures


def _export(options, result, folder):
    """Write the first model's detections in the formats that are asked for."""
    if not options.export:
        return
    lowest = options.export_threshold
    chosen = result.shown if lowest is None else result.detections.scores >= lowest
    for kind in options.export:
        # COCO's results are for evaluation, which needs all.
        every = kind == "coco" and lowest is None
        detections = result.detections if every else result.detections[chosen]
        export([kind], result.truth, detections, folder / "exports", result.name)

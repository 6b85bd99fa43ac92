"""The models of a server, which compute one image at a time and remember the latest ones."""

import contextlib
import threading
from collections import OrderedDict

import torch
from detectron2.structures import Instances

from ..errors import ConfigError
from ..inference.detections import make_result
from ..inference.loading import load
from .limits import BusyError, Limits

__all__ = ["Models", "load_models", "parse_named"]


def parse_named(entries, option):
    """Read NAME=VALUE entries of a command line.

    Args:
        entries (list[str]): such as ["small=output/small"].
        option (str): the option that has them, for messages.

    Returns:
        dict[str, str]: value by name, in order.

    Raises:
        ConfigError: an entry has another form, or a name occurs twice.
    """
    found = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        if not name.strip() or not value:
            raise ConfigError(f"{option} {entry} must be NAME=PATH, such as small=output/small.")
        if name in found:
            raise ConfigError(f"{option} names '{name}' twice. Give each model a name of its own.")
        found[name] = value
    return found


def load_models(sources, config_files=None, opts=(), allow_unsafe=False, limits=None):
    """Load the models of a command line.

    Args:
        sources (dict[str, str]): name -> the folder of a run, a checkpoint or an exported model;
            see :func:`~sparsercnn.inference.loading.load`.
        config_files (dict[str, str]): name -> config, of models that do not have their own.
        opts (sequence[str]): KEY VALUE pairs for all of them.
        allow_unsafe (bool): load any pickle, which may run code.
        limits (Limits): None for the default ones.

    Returns:
        Models: these.

    Raises:
        ConfigError, CheckpointError: see :func:`~sparsercnn.inference.loading.load`; or a config
        is for no model.
    """
    config_files = config_files or {}
    unknown = [name for name in config_files if name not in sources]
    if unknown:
        raise ConfigError(
            f"There is a config for '{unknown[0]}', but no model of that name: the names are "
            f"{', '.join(sources)}."
        )
    predictors = {
        name: load(
            source, config_file=config_files.get(name, ""), opts=opts, allow_unsafe=allow_unsafe
        )
        for name, source in sources.items()
    }
    return Models(predictors, limits)


class Models:
    """Models by name. All methods may be called by many threads.

    Attributes:
        limits (Limits): what may be asked for.
        names (list[str]): of the models, in order.
    """

    def __init__(self, predictors, limits=None):
        """
        Args:
            predictors (dict[str, Predictor]): at least one.
            limits (Limits): None for the default ones.
        """
        self._predictors = dict(predictors)
        self.limits = limits or Limits()
        self.names = list(self._predictors)
        self._kept = OrderedDict()  # (name, Upload.key) -> results, the latest last
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(self.limits.waiting)

    def num_stages(self, name):
        """Stages whose results :meth:`find` gives; 1 for a model without stages."""
        return max(self._get(name).num_stages, 1)

    def class_names(self, name):
        """Names of the model's classes; [] if it does not know them."""
        labels = self._get(name).labels
        return list(labels.things or labels.stuff)

    @contextlib.contextmanager
    def slot(self):
        """A place among the requests that wait or are computed, for the time of the block.

        Raises:
            BusyError: all are taken.
        """
        if not self._slots.acquire(blocking=False):
            raise BusyError("Too many requests are waiting already. Try again in a moment.")
        try:
            yield
        finally:
            self._slots.release()

    def find(self, name, upload):
        """What a model finds in an image: computed once, as long as it is remembered.

        Args:
            name (str): of the model.
            upload (Upload): the image.

        Returns:
            list[Detections | Segmentation]: of each stage, the last stage last. Do not change them.

        Raises:
            ConfigError: there is no such model.
            ImageError: see :meth:`Upload.open`.
        """
        predictor, key = self._get(name), (name, upload.key)
        with self._lock:
            if key not in self._kept:
                image = upload.open(self.limits)
                self._keep(key, _share_image(_run(predictor, image), upload.name))
            self._kept.move_to_end(key)
            return self._kept[key]

    def find_in_frame(self, name, frame):
        """:meth:`find` for a frame of a video: ndarray, (H, W, 3), uint8, BGR. Not remembered."""
        predictor = self._get(name)
        with self._lock:
            return _run(predictor, frame, channels="BGR")

    def _get(self, name):
        if name not in self._predictors:
            raise ConfigError(f"There is no model '{name}'. The models are: {self._listed()}.")
        return self._predictors[name]

    def _listed(self):
        return ", ".join(self.names)

    def _keep(self, key, results):
        self._kept[key] = results
        while len(self._kept) > 1 and sum(map(_num_bytes, self._kept.values())) > (
            self.limits.kept_bytes
        ):
            self._kept.popitem(last=False)


def _run(predictor, image, **options):
    if predictor.num_stages:
        return predictor.stages(image, **options)
    return [predictor(image, **options)]


def _share_image(results, file_name):
    """The same results with one copy of the image among them."""
    image = results[0].image
    return [make_result(x.output, x.class_names, image, file_name) for x in results]


def _num_bytes(results):
    tensors = [x for result in results for x in _tensors(result.output)]
    return results[0].image.nbytes + sum(x.element_size() * x.nelement() for x in tensors)


def _tensors(output):
    for value in output.values():
        if isinstance(value, Instances):
            yield from _tensors(value.get_fields())
        elif torch.is_tensor(value):
            yield value
        elif hasattr(value, "tensor"):  # boxes
            yield value.tensor

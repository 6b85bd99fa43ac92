"""Checkpoints: written atomically, read without running code, checked for completeness."""

import os
from urllib.parse import urlparse

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer

from ..errors import CheckpointError, abbreviate
from ..files import write_atomically
from .serialization import read_pickle, read_torch_file

__all__ = ["CheckpointError", "SafeCheckpointer", "load_for_inference", "require_all_weights"]

# Key that sets the first dimension of a weight, for the error message on a mismatch.
_KEY_OF_WEIGHT = {
    "class_logits.": "MODEL.SparseRCNN.NUM_CLASSES",
    "init_proposal_": "MODEL.SparseRCNN.NUM_PROPOSALS",
    "box_predictor.": "MODEL.ROI_HEADS.NUM_CLASSES",
    "sem_seg_head.predictor.": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    ".predictor.": "MODEL.ROI_HEADS.NUM_CLASSES",  # of a mask head, shared or one per stage
}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, torch.Size, torch.dtype)


class _TorchFiles(Checkpointer):
    """Reads ``.pth`` files for :class:`DetectionCheckpointer`.

    It comes after that class in the method resolution order: detectron2, of any version, processes
    the content as usual.
    """

    def _load_file(self, f):
        return read_torch_file(f, allow_unsafe=self.allow_unsafe, mmap=self._model_only)


class SafeCheckpointer(DetectionCheckpointer, _TorchFiles):
    """A :class:`DetectionCheckpointer` that reads untrusted files safely and writes atomically.

    Files that hold more than tensors, arrays and plain values are refused, since unpickling them
    can run code. Values are converted on saving where needed to load again under that rule.

    Attributes:
        metadata (dict): saved with each checkpoint under the key "meta", and returned under that
            key by :meth:`load`; see :func:`sparsercnn.engine.checkpoint_files.describe_run`.
        incompatible: differences between the last loaded file and the model: lists `missing_keys`,
            `unexpected_keys` and `incorrect_shapes` (key, shape in the file, shape in the model).
    """

    def __init__(
        self,
        model,
        save_dir="",
        *,
        allow_unsafe=False,
        metadata=None,
        save_to_disk=None,
        **checkpointables,
    ):
        """
        Args:
            model (nn.Module): the model to save and load.
            save_dir (str): a local folder.
            allow_unsafe (bool): load any pickle, which may run code.
            metadata (dict): plain values to save with each checkpoint.
            save_to_disk (bool): whether this process writes; None: only the main process does.
            checkpointables: objects with a state dict, as in detectron2.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.allow_unsafe = allow_unsafe
        self.metadata = dict(metadata or {})
        self.incompatible = None
        self._model_only = False

    def save(self, name, *, tag_last=True, **kwargs):
        """Write ``{save_dir}/{name}.pth``; if interrupted, an older file of that name is kept.

        Args:
            name (str): file name without extension.
            tag_last (bool): make this the checkpoint that ``--resume`` starts from.
            kwargs: further plain values and tensors to save.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        if self.metadata:
            data["meta"] = self.metadata
        data.update(kwargs)
        unsafe = []
        data = {key: _plain(value, key, unsafe) for key, value in data.items()}
        if unsafe:
            self.logger.warning(
                f"{name}.pth will load only with --allow-unsafe: it holds {'; '.join(unsafe)}."
            )
        basename = f"{name}.pth"
        path = os.path.join(self.save_dir, basename)
        self.logger.info(f"Saving checkpoint to {path}")
        with write_atomically(path) as file:
            torch.save({"model": _contiguous(self.model.state_dict()), **data}, file)
        if tag_last:
            self.tag_last_checkpoint(basename)

    def tag_last_checkpoint(self, last_filename_basename):
        """Record the name of the file in `save_dir` that ``--resume`` starts from."""
        with write_atomically(os.path.join(self.save_dir, "last_checkpoint"), "w") as file:
            file.write(last_filename_basename)

    def load(self, path, checkpointables=None):
        """Load a checkpoint; see :meth:`DetectionCheckpointer.load`.

        Args:
            path (str): a file, a URL, or "" for none.
            checkpointables (list[str]): names of those to load; None: all.

        Returns:
            dict: the unused content of the file, including "meta".

        Raises:
            CheckpointError: the file is missing, damaged, or refused as unsafe.
        """
        if path:
            self.local_file(path)
        # Without the optimizer's state, two thirds of a training checkpoint need not be read.
        self._model_only = checkpointables is not None and not checkpointables
        try:
            return super().load(path, checkpointables)
        except CheckpointError as error:
            if not error.damaged:
                raise
            advice = self._other_checkpoints(path)
            raise CheckpointError(f"{error} {advice}".rstrip(), damaged=True) from error

    def _load_file(self, filename):
        if filename.endswith(".pkl"):
            return self._from_model_zoo(read_pickle(filename, self.allow_unsafe))
        if filename.endswith(".pyth"):  # pycls
            data = read_torch_file(filename, self.allow_unsafe)
            if "model_state" not in data:
                raise CheckpointError(
                    f"{filename} has no 'model_state', which every .pyth file of pycls has."
                )
            weights = {
                k: v
                for k, v in data["model_state"].items()
                if not k.endswith("num_batches_tracked")
            }
            return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        return super()._load_file(filename)

    def _from_model_zoo(self, data):
        """Convert the content of a ``.pkl`` to the form that :meth:`_load_model` takes."""
        if "model" in data and "__author__" in data:  # detectron2's zoo
            self.logger.info(f"Reading a file from '{data['__author__']}'")
            return data
        data = data.get("blobs", data)  # Detectron's detectors have "blobs", its backbones do not
        weights = {
            k: v for k, v in data.items() if not k.endswith("_momentum") and k != "weight_order"
        }
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}

    def _load_model(self, checkpoint):
        self.incompatible = super()._load_model(checkpoint)
        return self.incompatible

    def local_file(self, path):
        """The local path of a file or, once it has been downloaded, of a URL.

        Raises:
            CheckpointError: there is no such file, or it cannot be downloaded.
        """
        # Newer detectron2 accepts options after a question mark.
        without_query = path if os.path.isfile(path) else urlparse(path)._replace(query="").geturl()
        try:
            local_path = self.path_manager.get_local_path(without_query)
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be downloaded: {error}. Download it by hand and set MODEL.WEIGHTS "
                "to the local file."
            ) from error
        if not os.path.isfile(local_path):
            raise CheckpointError(
                f"The weights file {path} does not exist. Check MODEL.WEIGHTS (for --resume, the "
                f"name in OUTPUT_DIR/last_checkpoint). {self._other_checkpoints(path)}".rstrip()
            )
        return local_path

    def _other_checkpoints(self, path):
        """Advice for the case that the file at `path` cannot be used."""
        folder = self.save_dir or os.path.dirname(path)
        if not os.path.isdir(folder):
            return ""
        found = [os.path.join(folder, x) for x in os.listdir(folder) if x.endswith(".pth")]
        found = [x for x in found if os.path.abspath(x) != os.path.abspath(path)]
        if not found:
            return ""
        newest = sorted(found, key=os.path.getmtime, reverse=True)
        names = ", ".join(os.path.basename(x) for x in newest[:3])
        return (
            f"Other checkpoints in {folder}, newest first: {names}. To resume from one, write its "
            f"name into {os.path.join(folder, 'last_checkpoint')}."
        )


def load_for_inference(model, path, allow_unsafe=False):
    """Load all weights of a model for inference.

    Args:
        model (nn.Module): as returned by :func:`detectron2.modeling.build_model`.
        path (str): the file, usually ``cfg.MODEL.WEIGHTS``.
        allow_unsafe (bool): load any pickle, which may run code.

    Returns:
        dict: the checkpoint's metadata (see :class:`SafeCheckpointer`), {} if it has none.

    Raises:
        CheckpointError: the file is missing, damaged or refused as unsafe, or it lacks weights of
            the model or has them in other shapes.
    """
    if not path:
        raise CheckpointError("MODEL.WEIGHTS is empty; set it to a checkpoint.")
    checkpointer = SafeCheckpointer(model, allow_unsafe=allow_unsafe)
    extra = checkpointer.load(path, checkpointables=[])
    require_all_weights(checkpointer.model, checkpointer.incompatible, path)
    meta = extra.get("meta")
    return meta if isinstance(meta, dict) else {}


def require_all_weights(model, incompatible, path):
    """Raise CheckpointError unless all weights of a model were loaded.

    Args:
        model (nn.Module): after loading.
        incompatible: see :class:`SafeCheckpointer`.
        path (str): the file, for the message.
    """
    mismatched = {key for key, *_ in incompatible.incorrect_shapes}
    missing = [k for k in incompatible.missing_keys if k not in mismatched]
    # A parameter with two names is loaded if either name is in the file.
    state = model.state_dict(keep_vars=True)
    loaded = {id(v) for k, v in state.items() if k not in mismatched and k not in missing}
    missing = [k for k in missing if id(state.get(k)) not in loaded]
    problems = [
        f"{key} is {in_file} in the file and {in_model} in the model"
        + _advice(key, in_file, in_model)
        for key, in_file, in_model in incompatible.incorrect_shapes
    ]
    if missing:
        problems.append(f"the file lacks {abbreviate(missing)}")
    if problems:
        raise CheckpointError(
            f"{path} does not fit the model: {abbreviate(problems, separator='; ')}. Check that "
            "--config-file is the config that the weights were trained with."
        )


def _advice(key, in_file, in_model):
    config_key = next((v for k, v in _KEY_OF_WEIGHT.items() if k in key), None)
    if config_key is None or in_file[:1] == in_model[:1] or in_file[1:] != in_model[1:]:
        return ""
    return f" (set by {config_key})"


def _contiguous(state_dict):
    """The state dict, whose metadata is kept, with all tensors laid out in memory in the order of
    their dimensions, whatever the model trained with: programs that read raw memory expect it."""
    for name, value in state_dict.items():
        if isinstance(value, torch.Tensor):
            state_dict[name] = value.contiguous()
    return state_dict


def _plain(value, where, unsafe):
    """Convert subclasses of containers and numpy scalars to plain values of the same content, and
    tensors to contiguous ones.

    A line for each value that will be refused on loading is added to `unsafe`.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor):
        return value.detach().contiguous()
    if isinstance(value, dict):
        return {
            _plain(k, where, unsafe): _plain(v, f"{where}.{k}", unsafe) for k, v in value.items()
        }
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        items = [_plain(v, f"{where}.{i}", unsafe) for i, v in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    numeric_array = isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
    if not isinstance(value, _PLAIN) and not numeric_array:
        unsafe.append(f"{where} ({type(value).__module__}.{type(value).__qualname__})")
    return value

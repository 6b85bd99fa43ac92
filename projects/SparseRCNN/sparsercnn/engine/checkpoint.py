"""Checkpoints: written atomically, read without running code, checked for completeness."""

import os
import shutil
from urllib.parse import urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer, _strip_prefix_if_present

from ..errors import CheckpointError
from ..files import write_atomically
from .plain_content import contiguous, num_bytes, plain
from .run_folder import last_checkpoint
from .safetensors_files import is_safetensors, read_safetensors
from .serialization import read_pickle, read_torch_file
from .weights_check import (
    require_all_weights,
    require_finite,
    require_same_types,
    require_tensors,
    take_other_shapes,
)

__all__ = ["SafeCheckpointer", "load_for_inference"]


class _TorchFiles(Checkpointer):
    """Reads ``.pth`` files for :class:`DetectionCheckpointer`.

    It comes after that class in the method resolution order: detectron2, of any version, processes
    the content as usual.
    """

    def _load_file(self, f):
        if is_safetensors(f):
            return read_safetensors(f)
        return read_torch_file(f, allow_unsafe=self.allow_unsafe, mmap=self._model_only)

    def _load_model(self, checkpoint):
        # fvcore finds the owner of a weight of another shape by its name, and ends in an
        # AttributeError where a state dict has an older name; and it casts all types.
        weights, state = checkpoint["model"], self.model.state_dict()
        self._convert_ndarray_to_tensor(weights)
        _strip_prefix_if_present(weights, "module.")
        require_same_types(state, weights, self._path)
        shapes = take_other_shapes(state, weights)
        require_finite(state, weights, self._path)
        incompatible = super()._load_model(checkpoint)
        return incompatible._replace(incorrect_shapes=shapes)


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
        self._path = ""  # of the file that is being loaded
        self._model_only = False
        self._resuming = False

    def save(self, name, *, tag_last=True, **kwargs):
        """Write ``{save_dir}/{name}.pth``; if interrupted, an older file of that name is kept.

        Args:
            name (str): file name without extension.
            tag_last (bool): make this the checkpoint that ``--resume`` starts from.
            kwargs: further plain values and tensors to save.

        Raises:
            CheckpointError: it cannot be written, such as on a full disk; older ones are whole.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        if self.metadata:
            data["meta"] = self.metadata
        data.update(kwargs)
        unsafe = []
        data = {key: plain(value, key, unsafe) for key, value in data.items()}
        if unsafe:
            self.logger.warning(
                f"{name}.pth will load only with --allow-unsafe: it holds {'; '.join(unsafe)}."
            )
        basename = f"{name}.pth"
        path = os.path.join(self.save_dir, basename)
        self.logger.info(f"Saving checkpoint to {path}")
        content = {"model": contiguous(self.model.state_dict()), **data}
        try:
            with write_atomically(path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:
            # PyTorch makes another error of it.
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError):
                raise
            raise CheckpointError(self._advice_on_space(path, content, reason)) from error
        if tag_last:
            self.tag_last_checkpoint(basename)

    def _advice_on_space(self, path, content, error):
        needed, free = num_bytes(content), shutil.disk_usage(self.save_dir).free
        kept = os.path.basename(self.get_checkpoint_file())
        whole = f" {kept} is whole: --resume continues from it." if kept else ""
        return (
            f"{path} cannot be written: {error.strerror or error}. It needs about "
            f"{needed / 2**20:,.1f} MiB, and {free / 2**20:,.1f} MiB are free on its disk.{whole} "
            "Make room there; SOLVER.CHECKPOINT_MAX_TO_KEEP limits how many checkpoints are kept."
        )

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
            CheckpointError: the file is missing, damaged, or refused as unsafe; or it has weights
                that are not finite, or of another type than the model's.
        """
        if path:
            self.local_file(path)
        self._path = path
        # Without the optimizer's state, two thirds of a training checkpoint need not be read.
        self._model_only = checkpointables is not None and not checkpointables
        try:
            return super().load(path, checkpointables)
        except CheckpointError as error:
            if not error.damaged:
                raise
            advice = self._other_checkpoints(path)
            raise CheckpointError(f"{error} {advice}".rstrip(), damaged=True) from error

    def resume_or_load(self, path, *, resume=True):
        """Load the last checkpoint of `save_dir` with everything in it, or else the weights at
        `path`; see :meth:`Checkpointer.resume_or_load`.

        Raises:
            CheckpointError: as :meth:`load`; or the checkpoint to resume from lacks weights of the
                model, or has them in other shapes.
        """
        self._resuming = resume and self.has_checkpoint()
        try:
            return super().resume_or_load(path, resume=resume)
        finally:
            self._resuming = False

    def has_checkpoint(self):
        """Whether there is a checkpoint to resume from."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self):
        """See :func:`~sparsercnn.engine.run_folder.last_checkpoint`."""
        return last_checkpoint(self.save_dir)

    def _load_file(self, filename):
        content = self._read(filename)
        require_tensors(content.get("model"), self._path)
        return content

    def _read(self, filename):
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
        if self._resuming:  # before the optimizer, whose state is of the same shapes
            require_all_weights(self.model, self.incompatible, self._path)
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

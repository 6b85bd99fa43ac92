"""Checkpoints of trainings: they hold the average of the weights, and fit other models."""

import contextlib

import torch
from fvcore.common.checkpoint import _strip_prefix_if_present

from ..errors import CheckpointError
from .adaptation import adapt_weights, describe_loading
from .checkpoint import SafeCheckpointer, require_all_weights

__all__ = ["TrainingCheckpointer"]

_PART = "ema"  # of a checkpoint


class TrainingCheckpointer(SafeCheckpointer):
    """A :class:`SafeCheckpointer` whose files hold the averaged weights as "model".

    Whatever reads a checkpoint (evaluation, demo, export, a training that starts from it, other
    programs) thus uses the average. The part "ema" has what else a resumed training needs: the
    weights as the optimizer left them.

    A training may start from the weights of a model with other classes or proposals, see
    :func:`~sparsercnn.engine.adaptation.adapt_weights`; what was loaded is logged as a table. A
    resumed one must find all weights.

    Attributes:
        new_weights (list[str]): names in the state dict of what the latest load of a model alone
            left, wholly or in part, as it was initialised.
    """

    def __init__(self, model, save_dir="", *, average=None, **options):
        """
        Args:
            model, save_dir: see :class:`SafeCheckpointer`.
            average (WeightAverage): None: there is none, and the model's own weights are saved.
            options: see :class:`SafeCheckpointer`.
        """
        checkpointable = {} if average is None else {_PART: average}
        super().__init__(model, save_dir, **options, **checkpointable)
        self.average = average
        self.new_weights = []
        self._path = ""

    def save(self, name, *, raw=False, **kwargs):
        """:meth:`SafeCheckpointer.save`; `raw`: the model's own weights are the file's "model"."""
        if not self.save_dir or not self.save_to_disk:
            return
        average = self.average is not None and not raw
        with self.average.applied() if average else contextlib.nullcontext():
            super().save(name, **kwargs)

    def load(self, path, checkpointables=None):
        """:meth:`SafeCheckpointer.load`; a run that was averaged and is resumed without goes on
        with the weights as the optimizer left them.

        Raises:
            CheckpointError: also, with all `checkpointables`, if the file does not have all weights
                of the model, and without them, if it has none that fits.
        """
        self._path = path
        rest = super().load(path, checkpointables)
        part = rest.get(_PART)
        if checkpointables is None and self.average is None and part and part["num_updates"]:
            self.logger.warning(
                f"{path} has an average of the weights, which this run does not continue: "
                "SOLVER.EMA.ENABLED is False."
            )
            if part["holds"] == "raw":
                weights = self.model.state_dict()
                with torch.no_grad():
                    for name, value in part["weights"].items():
                        weights[name].copy_(value)
        return rest

    def _load_model(self, checkpoint):
        if not self._model_only:
            incompatible = super()._load_model(checkpoint)
            require_all_weights(self.model, incompatible, self._path)
            return incompatible
        own = self.model.state_dict()
        adapted = {}
        if not checkpoint.get("matching_heuristics"):  # names of other code bases
            saved, meta = checkpoint["model"], checkpoint.get("meta")
            self._convert_ndarray_to_tensor(saved)
            _strip_prefix_if_present(saved, "module.")
            meta = meta if isinstance(meta, dict) else {}
            adapted = adapt_weights(own, saved, self.metadata, meta)
            saved.update({name: x.value for name, x in adapted.items()})
        incompatible = super()._load_model(checkpoint)
        missing = self._not_loaded(set(incompatible.missing_keys))
        state = self.model.state_dict(keep_vars=True)
        # Statistics of norms count as loaded, for the sake of files that are older than they.
        if missing.issuperset(k for k, v in state.items() if isinstance(v, torch.nn.Parameter)):
            raise CheckpointError(
                f"None of the weights in {self._path} fits the model: it has neither their names "
                "nor their shapes. Check MODEL.WEIGHTS, or convert it (docs/convert.md); '' starts "
                "from scratch."
            )
        self.new_weights = sorted(missing | {k for k, x in adapted.items() if x.has_new})
        unused = [*incompatible.unexpected_keys]
        unused += [name for name, *_ in incompatible.incorrect_shapes]
        self.logger.info(
            f"Weights of {self._path}:\n{describe_loading(list(own), adapted, missing, unused)}"
        )
        return incompatible

    def _not_loaded(self, missing_keys):
        """Names in the state dict, which may differ from those of parameters and buffers, of what
        is missing under each of its names."""
        tensors = [*self.model.named_parameters(remove_duplicate=False)]
        tensors += self.model.named_buffers(remove_duplicate=False)
        loaded = {id(value) for name, value in tensors if name not in missing_keys}
        state = self.model.state_dict(keep_vars=True)
        return {name for name, value in state.items() if id(value) not in loaded}

    def _log_incompatible_keys(self, incompatible):
        """Nothing: the table has them."""

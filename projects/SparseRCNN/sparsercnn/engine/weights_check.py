"""What weights must be like: tensors, of the model's names, types and shapes, and finite."""

import numpy as np
import torch

from ..errors import CheckpointError, abbreviate

__all__ = [
    "require_all_weights",
    "require_finite",
    "require_same_types",
    "require_tensors",
    "take_other_shapes",
]

# Key that sets the first dimension of a weight, for the error message on a mismatch.
_KEY_OF_WEIGHT = {
    "class_logits.": "MODEL.SparseRCNN.NUM_CLASSES",
    "init_proposal_": "MODEL.SparseRCNN.NUM_PROPOSALS",
    "box_predictor.": "MODEL.ROI_HEADS.NUM_CLASSES",
    "sem_seg_head.predictor.": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    ".predictor.": "MODEL.ROI_HEADS.NUM_CLASSES",  # of a mask head, shared or one per stage
}


def require_tensors(weights, path):
    """Raise CheckpointError unless a file's weights are a dict of names and ordinary tensors, or
    arrays of numbers.

    Args:
        weights: what the file at `path` has as its weights.
        path (str): for the message.
    """
    if not isinstance(weights, dict):
        raise CheckpointError(
            f"{path} has a {type(weights).__name__} as its weights; a dict of tensors by name was "
            "expected."
        )
    for name, value in weights.items():
        reason = "its name is no text" if not isinstance(name, str) else _fault(value)
        if reason:
            raise CheckpointError(
                f"{path} holds something else than weights: of '{str(name)[:80]}', {reason}. "
                "Remove it from the file."
            )


def _fault(value):
    """Why a value cannot be a weight; "" if it can."""
    if isinstance(value, np.ndarray):
        return "" if value.dtype.kind in "biufc" else "the array is not of numbers"
    if not isinstance(value, torch.Tensor):
        return f"the value is a {type(value).__name__}"
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        return "the tensor is sparse, quantized or nested"
    return "" if value.device.type == "cpu" else "the tensor has no content"


def require_same_types(state, weights, path):
    """Raise CheckpointError if weights would be cast to another kind of number.

    Args:
        state (dict[str, Tensor]): the model's own weights.
        weights (dict[str, Tensor]): those of the file, of which other names are ignored.
        path (str): for the message.
    """
    wrong = [
        f"{name} is {str(value.dtype)[6:]} in the file and {str(state[name].dtype)[6:]} in the "
        "model"
        for name, value in weights.items()
        if name in state and _kind(value) != _kind(state[name])
    ]
    if wrong:
        raise CheckpointError(
            f"{path} has weights of another type than the model's: {abbreviate(wrong)}. Save them "
            "as float32 or half precision; an eight-bit model is an exported one, see "
            "docs/export.md."
        )


def _kind(tensor):
    if tensor.is_floating_point():
        return "float"
    return str(tensor.dtype) if tensor.is_complex() or tensor.dtype == torch.bool else "integer"


def take_other_shapes(state, weights):
    """Remove from `weights`, in place, those that have another shape than in `state`.

    Returns:
        list[tuple]: name, shape in the file and shape in the model of each, as fvcore has them.
    """
    shapes = [
        (name, tuple(value.shape), tuple(state[name].shape))
        for name, value in weights.items()
        if name in state and value.shape != state[name].shape
    ]
    for name, *_ in shapes:
        del weights[name]
    return shapes


def require_finite(state, weights, path):
    """Raise CheckpointError if weights are infinite or NaN. Arguments: :func:`require_same_types`.

    The weights must have the model's shapes, see :func:`take_other_shapes`.
    """
    bad = [
        name
        for name, value in weights.items()
        if name in state
        and value.is_floating_point()
        and not torch.isfinite(value if value.element_size() > 1 else value.float()).all()
    ]
    if bad:
        raise CheckpointError(
            f"{path} has weights that are infinite or NaN: {abbreviate(bad)}. Their training has "
            "failed; use an earlier checkpoint."
        )


def require_all_weights(model, incompatible, path):
    """Raise CheckpointError unless all weights of a model were loaded, in its shapes.

    Args:
        model (nn.Module): after loading.
        incompatible: see :class:`~sparsercnn.engine.checkpoint.SafeCheckpointer`.
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
    problems += [f"the file lacks {abbreviate(missing)}"] if missing else []
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

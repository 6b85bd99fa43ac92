"""Parameters, floating-point operations and activations of a model, part by part."""

import re
from collections import Counter
from dataclasses import dataclass
from math import prod

from fvcore.nn import jit_handles
from fvcore.nn.jit_analysis import JitModelAnalysis
from fvcore.nn.jit_handles import get_shape

__all__ = ["ForwardCost", "count_forward", "count_parameters"]


def _attention_flops(inputs, outputs):
    """Queries (..., L, E) times keys (..., S, E), and that times values (..., S, V)."""
    query, key, value = (get_shape(x) for x in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _fused_self_attention_flops(inputs, outputs):
    """What :class:`torch.nn.MultiheadAttention` calls in inference, over (B, N, C)."""
    B, N, C = get_shape(inputs[0])
    return B * N * 4 * C * C + 2 * B * N * N * C


def _roi_align_flops(inputs, outputs):
    """Four corners for each sample of a bin; one sample, where the bin's size decides."""
    samples = max(inputs[5].toIValue(), 1) ** 2
    return prod(get_shape(outputs[0])) * samples * 4


def _embedding_bag_flops(inputs, outputs):
    """A row of C values for each index, however the rows are summed up; on the CPU, the pooling."""
    return get_shape(inputs[0])[1] * prod(get_shape(inputs[1]))


# One multiply-add is one operation, as fvcore counts.
_MATRIX_OPS = {
    "aten::_convolution": jit_handles.conv_flop_jit,
    "aten::linear": jit_handles.linear_flop_jit,
    "aten::addmm": jit_handles.addmm_flop_jit,
    "aten::mm": jit_handles.matmul_flop_jit,
    "aten::bmm": jit_handles.bmm_flop_jit,
    "aten::matmul": jit_handles.matmul_flop_jit,
    "aten::einsum": jit_handles.einsum_flop_jit,
    "aten::scaled_dot_product_attention": _attention_flops,
    "aten::_native_multi_head_attention": _fused_self_attention_flops,
}
_OTHER_OPS = {
    "aten::batch_norm": jit_handles.batchnorm_flop_jit,
    "aten::group_norm": jit_handles.norm_flop_counter(2),
    "aten::layer_norm": jit_handles.norm_flop_counter(2),
    "aten::upsample_nearest2d": jit_handles.elementwise_flop_counter(0, 1),
    "aten::upsample_bilinear2d": jit_handles.elementwise_flop_counter(0, 4),
    "aten::adaptive_avg_pool2d": jit_handles.elementwise_flop_counter(1, 0),
    "aten::avg_pool2d": jit_handles.elementwise_flop_counter(1, 0),
    "aten::embedding_bag": _embedding_bag_flops,
    "aten::grid_sampler": jit_handles.elementwise_flop_counter(0, 4),
    "torchvision::roi_align": _roi_align_flops,
}
# The fused operator also gives queries, keys, values and the heads' output, that is five in all.
_OUTPUTS = {"aten::_native_multi_head_attention": 5}

# Parts by the name of a module; the first that fits counts, and the module's children count where
# no name of their own fits earlier.
_PARTS = (
    (re.compile(r"(.+\.)?inst_interact(\.|$)"), "interaction"),
    (re.compile(r"backbone\.bottom_up(\.|$)"), "backbone"),
    (re.compile(r"backbone(\.|$)"), "neck"),
    (re.compile(r"(proposals|proposal_generator)(\.|$)"), "proposals"),
    (re.compile(r"(head|mask_branch|roi_heads|sem_seg_head)(\.|$)"), "head"),
)


@dataclass
class ForwardCost:
    """What one forward pass costs."""

    flops: dict  # operations by part, see _PARTS; they sum to the total
    activations: int  # values that convolutions, matrix products and attention give
    uncounted: set  # names of the operators that were met and count as free


def count_parameters(model):
    """
    Returns:
        tuple[int, int]: parameters that are trained, and all of them. Detectron2's frozen batch
        norms have buffers instead, which do not count.
    """
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def count_forward(model, inputs):
    """Count by tracing the inference of a model once (:mod:`fvcore.nn`).

    A multiply-add is one operation. Counted are convolutions, matrix products, attention (without
    its softmax), norms, resizing, pooling by average and RoIAlign; all else is free.

    Args:
        model (nn.Module): in evaluation mode; takes a list of inputs and gives tensors in dicts,
            lists and detectron2's structures.
        inputs (list[dict]): see :func:`~sparsercnn.analysis.inputs.make_batch`.

    Returns:
        ForwardCost:

    Raises:
        ValueError: the model is in training mode.
    """
    # Not above: in an unchanged detectron2 v0.6 this asks for caffe2, and pictures need none of it.
    from detectron2.export.flatten import TracingAdapter

    if model.training:
        raise ValueError("Costs are those of inference; call model.eval() first.")
    images = [{"image": x["image"]} for x in inputs]
    adapter = TracingAdapter(model, images, allow_non_tensor=True)
    handles = {op: _counter(op, flops) for op, flops in (_MATRIX_OPS | _OTHER_OPS).items()}
    analysis = JitModelAnalysis(adapter, adapter.flattened_inputs).set_op_handle(**handles)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    counts = {
        name.removeprefix("model").removeprefix("."): count
        for name, count in analysis.by_module_and_operator().items()
        if name
    }
    return ForwardCost(
        flops=_split(counts),
        activations=int(counts[""]["activations"]),
        uncounted={op.rpartition("::")[2] for op in analysis.unsupported_ops()},
    )


def _split(counts):
    """Operations by part, from those by module, which include those of the module's children."""
    own = {name: count["flops"] for name, count in counts.items()}
    for name, count in counts.items():
        if name:
            own[name.rpartition(".")[0]] -= count["flops"]
    has_neck = "backbone.bottom_up" in counts
    parts = Counter()
    for name, flops in own.items():
        part = next((part for pattern, part in _PARTS if pattern.match(name)), "other")
        parts["backbone" if part == "neck" and not has_neck else part] += int(flops)
    return {part: flops for part, flops in parts.items() if flops}


def _counter(op, handle):
    """A handle that gives operations and, of an operator in _MATRIX_OPS, activations."""

    def count(inputs, outputs):
        flops = handle(inputs, outputs)
        counts = Counter(flops=sum(flops.values()) if isinstance(flops, Counter) else flops)
        if op in _MATRIX_OPS:
            counts["activations"] = prod(get_shape(outputs[0])) * _OUTPUTS.get(op, 1)
        return counts

    return count

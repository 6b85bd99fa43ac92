"""Memory of a training step."""

from dataclasses import dataclass

import torch
from detectron2.utils.events import EventStorage

__all__ = ["StepMemory", "bytes_kept_for_backward", "measure_step", "train_step"]


@dataclass
class StepMemory:
    """Memory of a training step in float32, in bytes."""

    weights: int  # parameters and buffers
    moments: int  # of the optimizer
    gradients: int  # of the trained parameters
    kept: int  # activations that the forward pass keeps for the backward pass
    measured: int | None = None  # peak memory of all tensors; None if not measured

    @property
    def needed(self):
        """Lower bound on the memory of the step, without the workspace of operators.

        Activations are freed during the backward pass while gradients are allocated, so only the
        larger of the two counts.
        """
        return self.weights + self.moments + max(self.gradients, self.kept)


def bytes_kept_for_backward(forward, *, without=()):
    """Run a forward pass and add up the memory that it keeps for the backward pass.

    The result depends only on the operators, not on the device. A storage that several operators
    keep counts once, and counts as a whole even if only a view of it is kept.

    Args:
        forward (callable): takes no arguments and returns tensors with a graph.
        without (iterable[Tensor]): tensors not to count: weights and buffers.

    Returns:
        int: bytes.
    """
    skipped = {_address(x) for x in without}
    sizes = {}

    def keep(x):
        if _address(x) not in skipped:
            sizes[_address(x)] = x.untyped_storage().nbytes()
        return x.detach()  # avoids a reference cycle if an operator keeps its own output

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = forward()
    # The graph keeps all storages alive until here: no address belongs to two of them.
    del result
    return sum(sizes.values())


def _address(x):
    return x.untyped_storage().data_ptr()


def measure_step(model, inputs, optimizer):
    """Memory of one training step: losses, backward pass, optimizer.

    On CUDA, two steps are run and the peak of the second is measured. On other devices, only the
    forward pass is run, and the peak is not measured.

    Args:
        model (nn.Module): in training mode; returns a dict of losses.
        inputs (list[dict]): see :func:`~sparsercnn.analysis.inputs.make_batch`.
        optimizer (torch.optim.Optimizer): over the model's parameters.
    """
    tensors = [*model.parameters(), *model.buffers()]
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    moments = 2 if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)) else 1
    step = StepMemory(sum(x.nbytes for x in tensors), moments * trained, trained, kept=0)
    with EventStorage():
        step.kept = bytes_kept_for_backward(lambda: sum(model(inputs).values()), without=tensors)
    device = tensors[0].device
    if device.type == "cuda":
        for _ in range(2):  # the optimizer has its moments from the second step on
            torch.cuda.reset_peak_memory_stats(device)
            train_step(model, inputs, optimizer)
        step.measured = torch.cuda.max_memory_allocated(device)
    return step


def train_step(model, inputs, optimizer):
    """One training step; the arguments are those of :func:`measure_step`."""
    optimizer.zero_grad(set_to_none=True)
    with EventStorage():  # detectron2's heads log statistics
        sum(model(inputs).values()).backward()
    optimizer.step()

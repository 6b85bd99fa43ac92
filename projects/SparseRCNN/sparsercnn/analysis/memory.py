"""Memory of a training step."""

from dataclasses import dataclass

import torch
from detectron2.utils.events import EventStorage

__all__ = ["StepMemory", "bytes_kept_for_backward", "measure_step"]


@dataclass
class StepMemory:
    """Bytes of a training step in float32.

    Attributes:
        weights (int): parameters and buffers.
        moments (int): what the optimizer remembers of each trained parameter.
        gradients (int): of the trained parameters.
        kept (int): activations that the forward pass keeps for the backward pass.
        measured (int): the most that tensors held at any time; None where it was not measured.
    """

    weights: int
    moments: int
    gradients: int
    kept: int
    measured: int | None = None

    @property
    def needed(self):
        """What the step needs at least, less the operators' own workspace.

        Before the backward pass there are all activations and no gradients, after it all
        gradients and no activations; between, one makes room for the other.
        """
        return self.weights + self.moments + max(self.gradients, self.kept)


def bytes_kept_for_backward(forward, *, without=()):
    """Run something and add up what its result holds for the backward pass.

    It follows from the operators alone, so that it is the same on all devices that have the same
    ones. A storage that several operators keep counts once, and counts as a whole even where a
    view of it is kept.

    Args:
        forward (callable): takes nothing and returns what has a graph.
        without (iterable[Tensor]): tensors that are there anyway: weights and buffers.

    Returns:
        int: bytes.
    """
    skipped = {_address(x) for x in without}
    sizes = {}

    def keep(x):
        if _address(x) not in skipped:
            sizes[_address(x)] = x.untyped_storage().nbytes()
        return x.detach()  # an operator that keeps its own output would hold itself for ever

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = forward()
    # Until here the graph holds all of them, so that no address is seen twice for two storages.
    del result
    return sum(sizes.values())


def _address(x):
    return x.untyped_storage().data_ptr()


def measure_step(model, inputs, optimizer):
    """One training step: losses, backward pass, optimizer.

    On CUDA two steps are made, and the peak of the second is measured. Elsewhere the forward pass
    alone is run, and nothing is measured.

    Args:
        model (nn.Module): in training mode; it gives a dict of losses.
        inputs (list[dict]): see :func:`~sparsercnn.analysis.inputs.make_batch`.
        optimizer (torch.optim.Optimizer): over the model's parameters.

    Returns:
        StepMemory:
    """
    tensors = [*model.parameters(), *model.buffers()]
    trained = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    moments = 2 if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)) else 1
    step = StepMemory(sum(_bytes(x) for x in tensors), moments * trained, trained, kept=0)
    with EventStorage():  # detectron2's heads log what they sample
        step.kept = bytes_kept_for_backward(lambda: sum(model(inputs).values()), without=tensors)
        if next(model.parameters()).is_cuda:
            step.measured = _peak_on_cuda(model, inputs, optimizer)
    return step


def _bytes(x):
    return x.numel() * x.element_size()


def _peak_on_cuda(model, inputs, optimizer):
    device = next(model.parameters()).device
    # The optimizer has its moments from the second step on.
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats(device)
        optimizer.zero_grad(set_to_none=True)
        sum(model(inputs).values()).backward()
        optimizer.step()
    return torch.cuda.max_memory_allocated(device)

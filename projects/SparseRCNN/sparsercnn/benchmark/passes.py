"""One inference of a batch, and one training step, as they are measured."""

import itertools
from dataclasses import dataclass

import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from ..analysis import calm_frozen_norms
from ..engine.train_step import TrainStep
from ..engine.trainer import Trainer
from ..inference import prepare_for_inference
from . import common
from .counters import allocated_peak, count_launches, count_operators, count_waits
from .parts import PartTimer

__all__ = ["InferencePass", "PassResult", "TrainingPass", "build_for_inference", "measure_passes"]


def build_for_inference(cfg):
    """A config's model with random weights, as evaluation and prediction use it."""
    torch.manual_seed(0)
    return prepare_for_inference(cfg, calm_frozen_norms(build_model(cfg)).eval())


def build_for_training(cfg):
    """A config's model with random weights, as the trainer builds it."""
    torch.manual_seed(0)
    return calm_frozen_norms(Trainer.build_model(cfg)).train()


class InferencePass:
    """Detections of one batch."""

    def __init__(self, model, batch, dtype=torch.float32):
        """
        Args:
            model (nn.Module): in evaluation mode, with the interface of detectron2.
            batch (list[dict]): see :func:`~sparsercnn.analysis.inputs.make_batch`.
            dtype (torch.dtype): of autocast, for a model without a type of its own; float32: none.
        """
        self.model = model
        self.batch = batch
        self.dtype = dtype
        self.device = str(next(model.parameters()).device)

    def __call__(self):
        device_type = torch.device(self.device).type
        with (
            torch.inference_mode(),
            torch.autocast(device_type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            return self.model(self.batch)

    def clear(self):
        """Frees what the latest pass has left."""

    def resident_bytes(self):
        """Bytes of the weights and buffers."""
        return sum(x.nbytes for x in _tensors(self.model))

    def time_parts(self):
        """Runs it once; see :meth:`PartTimer.seconds`."""
        timer = PartTimer(self.device)
        with timer.watch(self.model), timer.span("other"):
            result = self()
        del result  # not while the time runs
        return timer.seconds(is_inference=True)


class TrainingPass:
    """One iteration of :class:`TrainStep` on the same batch, with a learning rate of 0."""

    def __init__(self, cfg, model, batch):
        """
        Args:
            cfg (CfgNode): the whole config; SOLVER decides optimizer, clipping and autocast.
            model (nn.Module): in training mode; returns a dict of losses.
            batch (list[dict]): see :func:`~sparsercnn.analysis.inputs.make_batch`.
        """
        self.model = model
        self.device = str(next(model.parameters()).device)
        self.optimizer = Trainer.build_optimizer(cfg, model)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # each pass does the same
        self.step = TrainStep(cfg, model, itertools.repeat(batch), self.optimizer)

    def __call__(self):
        with EventStorage():
            self.step.run_step()

    def clear(self):
        """Frees the gradients, and what the criterion remembers."""
        self.optimizer.zero_grad(set_to_none=True)
        if hasattr(self.model, "criterion"):
            self.model.criterion.normalizers = None

    def resident_bytes(self):
        """Bytes of weights and buffers, and of the optimizer's state."""
        states = [x for state in self.optimizer.state.values() for x in state.values()]
        state_bytes = sum(x.nbytes for x in states if isinstance(x, torch.Tensor))
        return sum(x.nbytes for x in _tensors(self.model)) + state_bytes

    def time_parts(self):
        """Runs it once; see :meth:`PartTimer.seconds`."""
        timer = PartTimer(self.device)
        clip_gradients = self.step.clip_gradients

        def time_clipping(parameters):
            timer.end()  # of the backward pass
            with timer.span("gradient norm"):
                return clip_gradients(parameters)

        with timer.watch(self.model), timer.span("other"):
            # After those of watch: the backward pass begins where the forward pass ends.
            handles = [
                self.model.register_forward_hook(lambda *args: timer.begin("backward")),
                self.optimizer.register_step_pre_hook(lambda *args: timer.begin("optimizer")),
                self.optimizer.register_step_post_hook(lambda *args: timer.end()),
            ]
            self.step.clip_gradients = time_clipping
            try:
                self()
            finally:
                self.step.clip_gradients = clip_gradients
                for handle in handles:
                    handle.remove()
        return timer.seconds(is_inference=False)


@dataclass
class PassResult:
    """Measurements of one pass of one model."""

    seconds: list  # of each round; on the CPU, processor time of all threads
    parts: dict  # seconds by part, of the fastest of as many more passes with a timer
    stages: list  # of each stage, seconds by part; they are in `parts` too
    peak: int  # bytes
    operators: int
    launches: int | None  # None on the CPU, as are waits
    waits: int | None


def measure_passes(makers, rounds):
    """Measure passes in turn.

    Args:
        makers (dict[str, callable]): by name; each takes no arguments and makes an
            :class:`InferencePass` or a :class:`TrainingPass`, all on the same device.
        rounds (int): timed passes of each.

    Returns:
        dict[str, PassResult]: by name.
    """
    passes, counts = {}, {}
    for name, make in makers.items():
        passes[name] = make()
        counts[name] = _count(passes[name])
    device = next(iter(passes.values())).device
    seconds = common.time_in_turn(passes, rounds, device, clock=common.processor_seconds)
    in_parts = {name: [] for name in passes}
    for _ in range(rounds):
        for name, function in passes.items():
            in_parts[name].append(function.time_parts())
    results = {}
    for name in passes:
        _, parts, stages = min(in_parts[name], key=lambda timed: timed[0])
        results[name] = PassResult(seconds[name], parts, stages, **counts[name])
    return results


def _count(function):
    """Peak memory, operators, launches and waits of a pass (dict)."""
    device = function.device
    function()  # allocates the optimizer's state, and compiles what is to be compiled
    function.clear()
    counts = {"peak": function.resident_bytes() + allocated_peak(function, device)}
    counts["operators"] = count_operators(function)
    counts["launches"] = count_launches(function, device)
    counts["waits"] = count_waits(function, device)
    return counts


def _tensors(model):
    return itertools.chain(model.parameters(), model.buffers())

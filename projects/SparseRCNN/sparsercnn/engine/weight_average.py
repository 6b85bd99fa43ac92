"""An exponential moving average of the weights."""

import contextlib
import logging

import torch
from detectron2.config import configurable

from ..errors import CheckpointError, ConfigError, abbreviate

__all__ = ["WeightAverage"]


class WeightAverage:
    r"""The moving average of a model's trained parameters and floating-point buffers.

    The first update, at iteration `start_iter`, copies the weights; update t after it, t = 1, 2,
    ..., computes

        average <- d_t average + (1 - d_t) weights,    d_t = min(decay, (1 + t) / (warmup + t)).

    Until `decay` is reached, the average thus spans about 1 / warmup of the updates so far, however
    long the training is, and forgets the weights that it began with. This is the form of
    TensorFlow's ``ExponentialMovingAverage`` with `num_updates`, where `warmup` is 10; averages of
    weights are due to Polyak and Juditsky (1992).

    Whole numbers and weights that are not trained need no average: they are the model's.

    Attributes:
        num_updates (int): so far; 0: there is no average yet.
    """

    @configurable
    def __init__(self, model, *, decay=0.9998, warmup=10.0, start_iter=0):
        """
        Args:
            model (nn.Module): not wrapped for distributed training; its parameters and buffers
                must keep their places in memory, and which are trained is settled.
            decay (float): the largest d, in [0, 1).
            warmup (float): 1 or more; 1: d is `decay` from the start.
            start_iter (int): iterations before this one do not count.

        Raises:
            ConfigError: `decay` or `warmup` is out of range.
        """
        if not 0 <= decay < 1:
            raise ConfigError(
                f"SOLVER.EMA.DECAY is {decay}; it must be at least 0 and below 1, such as 0.9998."
            )
        if warmup < 1:
            raise ConfigError(
                f"SOLVER.EMA.WARMUP is {warmup}; it must be 1 (no warm-up) or more, such as 10."
            )
        self.model = model
        self.decay = decay
        self.warmup = warmup
        self.start_iter = start_iter
        self.num_updates = 0
        self._swapped = False
        # By identity: a tensor with several names must be updated once.
        found = {id(x): (name, x) for name, x in model.state_dict(keep_vars=True).items()}
        found = [(name, x) for name, x in found.values() if _changes(x)]
        self._names = [name for name, _ in found]
        self._weights = [value.detach() for _, value in found]
        self._averages = [torch.empty_like(value) for value in self._weights]

    @classmethod
    def from_config(cls, cfg, model):
        ema = cfg.SOLVER.EMA
        return {
            "model": model,
            "decay": ema.DECAY,
            "warmup": ema.WARMUP,
            "start_iter": ema.START_ITER,
        }

    @torch.no_grad()
    def update(self, iteration):
        """Take in the weights; call it once per optimizer step.

        Args:
            iteration (int): number of the step.
        """
        if iteration < self.start_iter:
            return
        if self.num_updates == 0:
            torch._foreach_copy_(self._averages, self._weights)
            logging.getLogger(__name__).info(
                f"The average of the weights starts at iteration {iteration}."
            )
        else:
            t = self.num_updates
            decay = min(self.decay, (1 + t) / (self.warmup + t))
            torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        self.num_updates += 1

    @contextlib.contextmanager
    def applied(self):
        """Context in which the model has the averaged weights, if there are any. Afterwards it has
        its own again, to the bit."""
        if self.num_updates == 0 or self._swapped:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self):
        # The values, not the tensors: optimizer and compiled code refer to these.
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        self._swapped = not self._swapped

    def state_dict(self):
        """
        Returns:
            dict: `num_updates`; and, once there is an average, `holds`, which of the two sets of
            weights the model does not have at the moment, "raw" or "averaged", and `weights`, these
            by name.
        """
        state = {"num_updates": self.num_updates}
        if self.num_updates:
            state["holds"] = "raw" if self._swapped else "averaged"
            state["weights"] = dict(zip(self._names, self._averages, strict=True))
        return state

    @torch.no_grad()
    def load_state_dict(self, state):
        """Restore the average and the model's own weights; the model must have its weights of the
        same checkpoint.

        Raises:
            CheckpointError: the average is of other weights.
        """
        self.num_updates = state["num_updates"]
        if self.num_updates == 0:
            return
        restored = [_of_same_shape(state["weights"], *x) for x in self._named_weights()]
        if state["holds"] == "raw":
            torch._foreach_copy_(self._averages, self._weights)
            torch._foreach_copy_(self._weights, restored)
        else:
            torch._foreach_copy_(self._averages, restored)

    def _named_weights(self):
        return zip(self._names, self._weights, strict=True)


def _changes(value):
    is_trained = value.requires_grad or not isinstance(value, torch.nn.Parameter)
    return is_trained and value.is_floating_point()


def _of_same_shape(weights, name, own):
    if name not in weights or weights[name].shape != own.shape:
        raise CheckpointError(
            f"The checkpoint's average of the weights has no {name} of shape {tuple(own.shape)}; "
            f"it has {abbreviate(list(weights))}. Resume with the config of the interrupted run, "
            "or set MODEL.WEIGHTS instead of --resume."
        )
    return weights[name].to(own.device)

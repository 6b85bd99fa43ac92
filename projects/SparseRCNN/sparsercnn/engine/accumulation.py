"""What each micro-batch counts for, so that their gradients add up to those of one big batch."""

from collections import defaultdict

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConfigError

__all__ = ["MicroBatchWeights"]


class MicroBatchWeights:
    """Weights of micro-batches, for each loss its own.

    A loss S_i / d(n_i) of micro-batch i, where S_i is a sum, n_i what this worker counts and d what
    becomes of it (an average over workers, at least 1), must count for d(n_i) / d(n_all), with
    n_all = sum of n_i: then the losses add up to S_all / d(n_all), that of one big batch.

    A model tells by its ``criterion``, see :class:`~sparsercnn.modeling.criterion.SetCriterion`:

    * ``late_normalizers`` (list[str]): what is counted after the forward pass only, in words;
    * ``normalizers``: what was counted in the latest forward pass;
    * ``weigh(normalizers) -> dict[str, Tensor]``: those of k micro-batches to (k,) for each loss;
    * ``weigh_by_objects(batches, device) -> Tensor``: (k,), for all losses, without a forward pass.

    All micro-batches of a model without one count for 1/k.
    """

    def __init__(self, model, num_batches, *, exact=False):
        """
        Args:
            model (nn.Module): in training mode, not wrapped in DistributedDataParallel.
            num_batches (int): k, micro-batches per iteration.
            exact (bool): where objects are not all that counts, find out by a forward pass of each
                micro-batch more.

        Raises:
            ConfigError: `exact`, and the model does not tell what it counts.
        """
        self.model = model
        self.num_batches = num_batches
        criterion = getattr(model, "criterion", None)
        self.criterion = criterion if hasattr(criterion, "late_normalizers") else None
        if exact and num_batches > 1 and self.criterion is None:
            raise ConfigError(
                f"SOLVER.EXACT_ACCUMULATION is for models such as SparseRCNN: {_name(model)} does "
                "not tell what its losses are divided by. Set it to False."
            )
        late = self.criterion.late_normalizers if num_batches > 1 and self.criterion else []
        self.needs_counting = exact and bool(late)
        self.approximations = [] if self.needs_counting else late

    def notice(self):
        """
        Returns:
            str: in what the gradients are not those of one big batch, and what to do; "" if they
            are.
        """
        if self.num_batches == 1:
            return ""
        reasons = []
        if self.criterion is None:
            reasons.append(
                f"{_name(self.model)} does not tell what its losses are divided by, so that all "
                "micro-batches count the same, which is exact for means over equally many items."
            )
        if self.approximations:
            reasons.append(
                f"micro-batches are weighted by their objects, but {'; '.join(self.approximations)}"
                ". SOLVER.EXACT_ACCUMULATION True makes that exact, for one more forward pass of "
                "each micro-batch."
            )
        norms = [x for x in self.model.modules() if isinstance(x, _BatchNorm) and x.training]
        if norms:
            reasons.append(
                f"{len(norms)} batch norms in training normalise each micro-batch by itself."
            )
        if not reasons:
            return ""
        return (
            f"With SOLVER.ACCUMULATE_STEPS {self.num_batches}, gradients are close to those of one "
            f"big batch, but not equal: {' Also, '.join(reasons)}"
        )

    def __call__(self, batches, forward):
        """
        Args:
            batches (list[list[dict]]): k micro-batches of this worker.
            forward (callable): ``forward(model, batch)``, the forward pass as in training.

        Returns:
            dict[str, Tensor]: (k,) by name of the loss; any name is known.
        """
        device = next(self.model.parameters()).device
        if len(batches) == 1 or self.criterion is None:
            of_others = torch.full((len(batches),), 1 / len(batches), device=device)
        else:
            of_others = self.criterion.weigh_by_objects(batches, device)
        by_name = self._count(batches, forward, device) if self.needs_counting else {}
        return defaultdict(lambda: of_others, by_name)

    @torch.no_grad()
    def _count(self, batches, forward, device):
        """Forward passes that leave no trace, with the random numbers of those that follow."""
        # Running statistics of norms would take these images in twice.
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        normalizers = []
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for batch in batches:
                forward(self.model, batch)
                normalizers.append(self.criterion.normalizers)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        return self.criterion.weigh(normalizers)


def _name(model):
    return type(model).__name__

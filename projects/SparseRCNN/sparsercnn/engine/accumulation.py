"""Weights of micro-batches with which their gradients add up to those of one big batch."""

from collections import defaultdict

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConfigError

__all__ = ["MicroBatchWeights"]


class MicroBatchWeights:
    """Weights of micro-batches, separate for each loss.

    Let the loss of micro-batch i be S_i / d(n_i), where S_i is a sum, n_i a count on this worker,
    and d its normaliser (the average over workers, at least 1). With weights d(n_i) / d(n_all),
    where n_all = sum of n_i, the losses add up to S_all / d(n_all), the loss of one big batch.

    The model's ``criterion`` provides the counts, see
    :class:`~sparsercnn.modeling.criterion.SetCriterion`:

    * ``late_normalizers`` (list[str]): descriptions of counts known only after the forward pass;
    * ``normalizers``: counts of the latest forward pass;
    * ``weigh(normalizers) -> dict[str, Tensor]``: weights (k,) for each loss, from the counts of k
      micro-batches;
    * ``weigh_by_objects(batches, device) -> Tensor``: weights (k,) for all losses, without a
      forward pass.

    Without a criterion, each micro-batch has weight 1/k.
    """

    def __init__(self, model, num_batches, *, exact=False):
        """
        Args:
            model (nn.Module): in training mode, not wrapped in DistributedDataParallel.
            num_batches (int): k, micro-batches per iteration.
            exact (bool): obtain counts that are known only after the forward pass by an additional
                forward pass of each micro-batch.

        Raises:
            ConfigError: `exact`, but the model has no criterion that provides counts.
        """
        self.model = model
        self.num_batches = num_batches
        criterion = getattr(model, "criterion", None)
        self.criterion = criterion if hasattr(criterion, "late_normalizers") else None
        if exact and num_batches > 1 and self.criterion is None:
            raise ConfigError(
                "SOLVER.EXACT_ACCUMULATION is for models such as SparseRCNN: "
                f"{type(model).__name__} does not tell what its losses are divided by. Set it to "
                "False."
            )
        late = self.criterion.late_normalizers if num_batches > 1 and self.criterion else []
        self.needs_counting = exact and bool(late)
        self.approximations = [] if self.needs_counting else late

    def notice(self):
        """str: how the gradients differ from those of one big batch, and the remedy; "" if they
        are equal."""
        if self.num_batches == 1:
            return ""
        reasons = []
        if self.criterion is None:
            reasons.append(
                f"{type(self.model).__name__} does not tell what its losses are divided by, so all "
                "micro-batches have equal weight, which is exact for means over equally many items."
            )
        if self.approximations:
            reasons.append(
                f"micro-batches are weighted by their objects, but {'; '.join(self.approximations)}"
                ". SOLVER.EXACT_ACCUMULATION True makes that exact, at the cost of one more "
                "forward pass per micro-batch."
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
            dict[str, Tensor]: weights (k,) by name of the loss; a defaultdict that has any name.
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
        """Weights from forward passes with the random numbers of the training passes that follow.

        Buffers and the random state are restored afterwards.
        """
        # Otherwise the running statistics of norms would include these images twice.
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        normalizers = []
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for batch in batches:
                forward(self.model, batch)
                normalizers.append(self.criterion.normalizers)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        return self.criterion.weigh(normalizers)

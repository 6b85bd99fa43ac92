"""The report on an iteration with an infinite or NaN loss or gradient."""

import itertools
import math
import os
import re
from dataclasses import dataclass, field

import torch
from detectron2.utils import comm
from torch import Tensor

from ..errors import abbreviate
from ..files import write_atomically

__all__ = ["IterationRecord", "NonFiniteReport", "random_state"]

_MAX_NAMES = 20  # images named in a message

_ADVICE = """What helps, most likely first:
- a learning rate that is too high: lower SOLVER.BASE_LR, or lengthen SOLVER.WARMUP_ITERS;
- half precision that overflows: SOLVER.AMP.DTYPE bfloat16, or SOLVER.AMP.ENABLED False;
- gradients without a bound: SOLVER.CLIP_GRADIENTS.ENABLED True, CLIP_TYPE full_model;
- bad data: look at the images above and their annotations;
- or skip such iterations with SOLVER.SKIP_NON_FINITE True."""


def random_state(device):
    """dict[str, Tensor]: PyTorch's random states, "cpu" and, if `device` is a GPU, "cuda"."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


@dataclass
class IterationRecord:
    """The data of one iteration, for the log and, if it fails, for the report.

    Attributes:
        number: of the iteration.
        batches: k micro-batches of this worker, as the loader gave them.
        data_time: seconds spent waiting for the loader.
        random_states: :func:`random_state` before the forward pass of each micro-batch.
        names: of the L losses.
        losses: (k, L), as the model gave them.
        weights: (k, L), weights of the micro-batches in the losses of the iteration.
        grad_norm: scalar, over all parameters, before clipping.
    """

    number: int
    batches: list[list[dict]]
    data_time: float
    random_states: list[dict[str, Tensor]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    losses: Tensor | None = None
    weights: Tensor | None = None
    grad_norm: Tensor | None = None


class NonFiniteReport:
    """The images and stages of a failed iteration, and what is needed to reproduce it.

    All workers must create it at the same time, since they exchange what they found.

    Attributes:
        summary (str): one line: iteration, losses, stages, workers and images.
    """

    def __init__(self, model, iteration, amp_dtype):
        """
        Args:
            model (nn.Module): with the weights of the iteration.
            iteration (IterationRecord): the one that failed.
            amp_dtype (torch.dtype): of autocast, or None.
        """
        self.model = model
        self.iteration = iteration
        self.amp_dtype = amp_dtype
        self.rank = comm.get_rank()
        self.losses = [
            dict(zip(iteration.names, values, strict=True)) for values in iteration.losses.tolist()
        ]
        everyone = list(itertools.chain(*comm.all_gather(self._culprits())))
        # With finite losses it is a gradient; workers share it, so it may come from any of them.
        self.from_gradient = not everyone
        if self.from_gradient:
            everyone = list(itertools.chain(*comm.all_gather(self._suspects())))
        self.summary = self._summarize(everyone)

    def message(self, saved):
        """str: the message of the error that stops training; `saved` is from :meth:`save`."""
        return "\n".join(line for line in (self.summary, saved, _ADVICE) if line)

    def save(self, output_dir):
        """Write ``{output_dir}/non_finite/iteration_{number}_rank_{rank}.pth``, unless the failure
        is on other workers only.

        The file holds `iteration`, `rank`, `model` (a state dict), `amp_dtype`, and per
        micro-batch `batches`, `losses` and `random_states`. It needs
        ``torch.load(path, weights_only=False)``. Then, with the model in training mode,
        ``torch.set_rng_state(report["random_states"][i]["cpu"])`` and
        ``model(report["batches"][i])`` give the losses again.

        Returns:
            str: a line with the path of the file, or the reason why there is none.
        """
        if not output_dir:
            return ""
        folder = os.path.join(output_dir, "non_finite")
        if not self.from_gradient and not self._culprits():
            return f"Inputs, weights and random state are in {folder}."
        path = os.path.join(folder, f"iteration_{self.iteration.number:07d}_rank_{self.rank}.pth")
        content = {
            "iteration": self.iteration.number,
            "rank": self.rank,
            "model": self.model.state_dict(),
            "amp_dtype": self.amp_dtype,
            "batches": self.iteration.batches,
            "losses": self.losses,
            "random_states": self.iteration.random_states,
        }
        try:
            os.makedirs(folder, exist_ok=True)
            with write_atomically(path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:  # a full disk must not hide the original error
            return f"Inputs and weights could not be saved to {path}: {error}"
        return f"Inputs, weights and random state are in {path} (torch.load, weights_only=False)."

    def _culprits(self):
        """(rank, losses, images) of each micro-batch of this worker with a non-finite loss."""
        found = []
        for batch, losses in zip(self.iteration.batches, self.losses, strict=True):
            bad = [name for name, value in losses.items() if not math.isfinite(value)]
            if bad:
                found.append((self.rank, [_with_stage(x, losses) for x in bad], _images(batch)))
        return found

    def _suspects(self):
        return [(self.rank, ["gradient"], _images(batch)) for batch in self.iteration.batches]

    def _summarize(self, found):
        parts = [
            f"{', '.join(losses)} on worker {rank} from images {abbreviate(images, _MAX_NAMES)}"
            for rank, losses, images in found
        ]
        what = "The gradient" if self.from_gradient else "A loss"
        return (
            f"{what} is infinite or NaN at iteration {self.iteration.number}: {'; '.join(parts)}."
        )


def _images(batch):
    return [str(x.get("file_name", x.get("image_id", "(no name)"))) for x in batch]


def _with_stage(name, names):
    """The loss's name and, for a detector with stages, its stage; suffix _0 is the first one."""
    suffix = re.search(r"_(\d+)$", name)
    if suffix:
        return f"{name} (stage {int(suffix[1]) + 1})"
    return f"{name} (last stage)" if f"{name}_0" in names else name

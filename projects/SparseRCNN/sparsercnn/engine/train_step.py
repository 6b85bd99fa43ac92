"""One training iteration: forward and backward over micro-batches, checks, one optimizer step."""

import contextlib
import logging
import math
import time

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError, NonFiniteError
from .accumulation import MicroBatchWeights
from .interruption import requested
from .non_finite import IterationRecord, NonFiniteReport, random_state
from .solver import build_gradient_clipper, match_memory_format

__all__ = ["TrainStep"]

_AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_LOSS_SCALE_PERIOD = 20  # iterations; reading the loss scale waits for the GPU


class TrainStep(SimpleTrainer):
    """A :class:`detectron2.engine.SimpleTrainer` with gradient accumulation, mixed precision,
    gradient clipping and a check of every loss before the weights change.

    Accumulation gives the gradients of one big batch if :class:`MicroBatchWeights` knows what the
    model divides its losses by; otherwise, a warning is logged at the start.

    The host waits for the device once per iteration, for losses and gradient norm together.

    Attributes:
        stop_requested (bool): after an iteration, whether any worker has been asked to stop, see
            :mod:`~sparsercnn.engine.interruption`; the same on all workers.
    """

    @configurable
    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        *,
        clip_gradients,
        accumulate_steps=1,
        exact_accumulation=False,
        amp_dtype=None,
        grad_scaler=None,
        skip_non_finite=False,
        max_consecutive_skips=100,
        output_dir="",
        seed=None,
        average=None,
    ):
        """
        Args:
            model (nn.Module): returns a loss, or a dict of losses, for a micro-batch; may be
                wrapped in DistributedDataParallel.
            data_loader (iterable): endless, yields this worker's micro-batches (list[dict]).
            optimizer (torch.optim.Optimizer): of the model's parameters.
            clip_gradients (callable): see :func:`~sparsercnn.engine.solver.build_gradient_clipper`.
            accumulate_steps (int): k, micro-batches per iteration.
            exact_accumulation (bool): if exact weights of micro-batches need it, obtain them by an
                extra forward pass of each.
            amp_dtype (torch.dtype): of autocast; None: no mixed precision.
            grad_scaler (GradScaler): None: created for float16.
            skip_non_finite (bool): skip an iteration with a non-finite loss or gradient, with a
                warning, instead of stopping.
            max_consecutive_skips (int): after more skipped iterations in a row, stop nevertheless:
                single images are then not the cause.
            output_dir (str): reports are written to its folder `non_finite`; "": no reports.
            seed (int): PyTorch's generator is seeded from it and the iteration's number, so that a
                resumed run draws the same numbers; None: it is not seeded.
            average (WeightAverage): updated after each optimizer step; None: there is none.

        Raises:
            ConfigError: `accumulate_steps` below 1, or float16 on the CPU; or see
                :class:`MicroBatchWeights`.
        """
        # With the loader, detectron2 0.6 would start its processes here, before a resumed run has
        # set their seed.
        super().__init__(model, (), optimizer)
        self.data_loader = data_loader
        self.clip_gradients = clip_gradients
        self.accumulate_steps = accumulate_steps
        self.amp_dtype = amp_dtype
        self.device = next(model.parameters()).device
        self.skip_non_finite = skip_non_finite
        self.max_consecutive_skips = max_consecutive_skips
        self.output_dir = output_dir
        self.seed = seed
        self.average = average
        self.stop_requested = False
        self.num_skipped = 0
        self._skipped_in_a_row = 0
        self._batch_iterator = None
        if accumulate_steps < 1:
            raise ConfigError(
                f"SOLVER.ACCUMULATE_STEPS is {accumulate_steps}; it must be 1 or more."
            )
        self.micro_batch_weights = MicroBatchWeights(
            self._bare_model, accumulate_steps, exact=exact_accumulation
        )
        notice = self.micro_batch_weights.notice()
        if notice:
            logging.getLogger(__name__).warning(notice)
        if amp_dtype == torch.float16 and self.device.type == "cpu":
            raise ConfigError(
                "SOLVER.AMP.DTYPE float16 needs a GPU. On the CPU, set it to bfloat16, or "
                "SOLVER.AMP.ENABLED to False."
            )
        if grad_scaler is None and amp_dtype == torch.float16:
            grad_scaler = torch.amp.GradScaler()
        self.grad_scaler = grad_scaler

    @classmethod
    def from_config(cls, cfg, model, data_loader, optimizer):
        amp = cfg.SOLVER.AMP
        if amp.DTYPE not in _AMP_DTYPES:
            raise ConfigError(f"SOLVER.AMP.DTYPE is '{amp.DTYPE}'; it must be float16 or bfloat16.")
        return {
            "model": model,
            "data_loader": data_loader,
            "optimizer": optimizer,
            "clip_gradients": build_gradient_clipper(cfg),
            "accumulate_steps": cfg.SOLVER.ACCUMULATE_STEPS,
            "exact_accumulation": cfg.SOLVER.EXACT_ACCUMULATION,
            "amp_dtype": _AMP_DTYPES[amp.DTYPE] if amp.ENABLED else None,
            "skip_non_finite": cfg.SOLVER.SKIP_NON_FINITE,
            "output_dir": cfg.OUTPUT_DIR,
            "seed": cfg.SEED if cfg.SEED >= 0 else None,
        }

    def reset_data_loader(self, data_loader_builder):
        """Replace the loader, before or during training, by ``data_loader_builder()``."""
        self.data_loader = data_loader_builder()
        self._batch_iterator = None

    def run_step(self):
        """
        Raises:
            NonFiniteError: a loss is not finite or, without a scaler, the gradient. Raised on all
                workers; the message names the images and the remedies.
        """
        assert self.model.training, "The model was changed to eval mode and not back."
        iteration = self._next_batches()
        if self.seed is not None:
            numbers = np.random.SeedSequence((self.seed, comm.get_rank(), self.iter))
            torch.manual_seed(int(numbers.generate_state(1)[0]))
        buffers = self._save_buffers()
        self.optimizer.zero_grad()
        self._accumulate_gradients(iteration)
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        iteration.grad_norm = self.clip_gradients(parameters)

        losses, grad_norm, data_time = self._metrics_to_host(iteration)
        # To a scaler, infinite gradients are a sign to lower the scale, not an error.
        finite = all(math.isfinite(loss) for loss in losses.values()) and (
            self.grad_scaler is not None or math.isfinite(grad_norm)
        )
        if finite:
            self._skipped_in_a_row = 0
            self._update_weights()
            if self.average is not None:
                self.average.update(self.iter)
            self._put_metrics(losses, grad_norm, data_time)
        else:
            self._handle_non_finite(iteration, buffers)

    def state_dict(self):
        """The content of :class:`detectron2.engine.AMPTrainer`'s, and `num_skipped`."""
        state = super().state_dict()
        state["num_skipped"] = self.num_skipped
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict):
        """Continue with the moments of `state_dict`, but the config's decay, betas and momentum.

        The rates, which a schedule has set, are those of `state_dict`.

        Raises:
            ConfigError: the optimizer's state is of another optimizer or grouping of parameters.
        """
        try:
            saved, own = state_dict["optimizer"]["param_groups"], self.optimizer.param_groups
            # PyTorch would fail only at the next step.
            if ("betas" in saved[0]) != ("betas" in own[0]):
                raise ValueError("SOLVER.OPTIMIZER is another")
            configured = [
                {key: value for key, value in group.items() if key not in ("params", "lr")}
                for group in own
            ]
            super().load_state_dict(state_dict)
            for group, values in zip(self.optimizer.param_groups, configured, strict=True):
                group.update(values)
            match_memory_format(self.optimizer)
        except (ValueError, KeyError) as error:
            raise ConfigError(
                "The checkpoint's optimizer does not fit the one of the config: "
                f"{error}. Restore the SOLVER keys it was trained with, or start a new run from "
                "its weights: MODEL.WEIGHTS instead of --resume."
            ) from error
        self.num_skipped = state_dict.get("num_skipped", 0)
        if self.grad_scaler is not None and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

    @property
    def _bare_model(self):
        distributed = isinstance(self.model, DistributedDataParallel)
        return self.model.module if distributed else self.model

    def _next_batches(self):
        start = time.perf_counter()
        if self._batch_iterator is None:
            self._batch_iterator = iter(self.data_loader)
        batches = [next(self._batch_iterator) for _ in range(self.accumulate_steps)]
        return IterationRecord(self.iter, batches, data_time=time.perf_counter() - start)

    def _save_buffers(self):
        if not self.skip_non_finite:
            return {}
        # A skipped batch must not leave its statistics in the norm layers.
        return {name: buffer.clone() for name, buffer in self._bare_model.named_buffers()}

    def _accumulate_gradients(self, iteration):
        weights = self.micro_batch_weights(iteration.batches, self._forward)
        losses = []
        last = len(iteration.batches) - 1
        for i, batch in enumerate(iteration.batches):
            iteration.random_states.append(random_state(self.device))
            # Workers exchange gradients once, after the last micro-batch.
            exchange = i == last or not isinstance(self.model, DistributedDataParallel)
            with contextlib.nullcontext() if exchange else self.model.no_sync():
                loss_dict = self._forward(self.model, batch)
                if i == 0:  # the same set for each micro-batch; its order is the first one's
                    iteration.names = list(loss_dict)
                    iteration.weights = torch.stack([weights[x] for x in iteration.names], dim=1)
                losses.append(torch.stack([loss_dict[name].float() for name in iteration.names]))
                total = (losses[-1] * iteration.weights[i]).sum()
                if self.grad_scaler is not None:
                    total = self.grad_scaler.scale(total)
                total.backward()
        iteration.losses = torch.stack(losses).detach()

    def _forward(self, model, batch):
        """dict[str, Tensor]: the losses of one micro-batch."""
        enabled = self.amp_dtype is not None
        with torch.autocast(self.device.type, self.amp_dtype, enabled):
            losses = model(batch)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def _metrics_to_host(self, iteration):
        """
        Returns:
            tuple[dict[str, float], float, float]: losses averaged over workers, as of one big
            batch; gradient norm; seconds that the slowest worker waited for data.
        """
        num_workers = comm.get_world_size()
        losses = (iteration.losses * iteration.weights).sum(0)
        # One slot per worker makes a maximum of the data times out of a sum. The last slot counts
        # the workers that were asked to stop.
        slots = losses.new_zeros(num_workers + 1)
        slots[comm.get_rank()] = iteration.data_time
        if requested():
            slots[-1] = 1
        metrics = torch.cat([losses / num_workers, slots])
        if num_workers > 1:
            torch.distributed.all_reduce(metrics)
        metrics = torch.cat([metrics, iteration.grad_norm.to(metrics).reshape(1)])
        values = metrics.tolist()  # the one wait for the device
        num_losses = len(iteration.names)
        losses = dict(zip(iteration.names, values[:num_losses], strict=True))
        self.stop_requested = values[-2] > 0
        return losses, values[-1], max(values[num_losses:-2])

    def _update_weights(self):
        if self.grad_scaler is None:
            self.optimizer.step()
            return
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if self.iter % _LOSS_SCALE_PERIOD == 0:
            scale = self.grad_scaler.get_scale()
            get_event_storage().put_scalar("loss_scale", scale, smoothing_hint=False)
            if scale < 1:
                logging.getLogger(__name__).warning(
                    f"At iteration {self.iter} the loss scale is down to {scale:g}: gradients "
                    "overflow in float16 and most updates are left out. Set SOLVER.AMP.DTYPE to "
                    "bfloat16, or lower SOLVER.BASE_LR."
                )

    def _put_metrics(self, losses, grad_norm, data_time):
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        storage.put_scalar("data_time", data_time)
        storage.put_scalar("total_loss", sum(losses.values()))
        if len(losses) > 1:
            storage.put_scalars(**losses)
        if math.isfinite(grad_norm):
            storage.put_scalar("grad_norm", grad_norm)

    def _handle_non_finite(self, iteration, buffers):
        self.num_skipped += 1
        self._skipped_in_a_row += 1
        report = NonFiniteReport(self._bare_model, iteration, self.amp_dtype)
        if not self.skip_non_finite or self._skipped_in_a_row > self.max_consecutive_skips:
            raise NonFiniteError(report.message(report.save(self.output_dir)))
        logging.getLogger(__name__).warning(f"Iteration skipped. {report.summary}")
        get_event_storage().put_scalar(
            "non_finite_iterations", self.num_skipped, smoothing_hint=False
        )
        self.optimizer.zero_grad()
        if self.grad_scaler is not None:
            self.grad_scaler.update()  # closes the iteration that unscale_ opened
        for name, buffer in self._bare_model.named_buffers():
            buffer.copy_(buffers[name])

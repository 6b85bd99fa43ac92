"""Training hooks that detectron2 lacks."""

import json
import logging
import math
import os

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..files import write_atomically

__all__ = ["BestCheckpointer", "EarlyStopping", "StopTraining"]

_FILE_NAME = "model_best"  # without extension


class BestCheckpointer(HookBase):
    """Save the checkpoint with the best value of a metric under its own name.

    Unlike detectron2's hook of the same name, it restores the best value on ``--resume``, and does
    not change which checkpoint ``--resume`` starts from. Register it after the `EvalHook` that
    computes the metric, on the main process only.
    """

    def __init__(
        self, period, checkpointer, metric, aliases=(), lower_is_better=False, raw_names=()
    ):
        """
        Args:
            period (int): period of the `EvalHook`, in iterations; 0: it runs only at the end.
            checkpointer (TrainingCheckpointer): writes ``model_best.pth``; ``model_best.json``
                beside it holds the metric's name, its value and the iteration.
            metric (str): "TASK/METRIC".
            aliases (sequence[str]): other names of the metric, tried if `metric` is missing.
            lower_is_better (bool): True: the best value is the lowest.
            raw_names (sequence[str]): names of the metric of the weights that are not averaged. If
                it is better than that of the average, these weights are saved.
        """
        self.period = period
        self.checkpointer = checkpointer
        self.metric = metric
        self.names = (metric, *aliases)
        self.raw_names = tuple(raw_names)
        self.lower_is_better = lower_is_better
        self.best = None
        self.best_iter = None

    @property
    def record_file(self):
        """Path of the ``.json`` file."""
        return os.path.join(self.checkpointer.save_dir, f"{_FILE_NAME}.json")

    def before_train(self):
        # A new run in an old folder ignores the old record.
        if self.trainer.start_iter > 0 and os.path.isfile(self.record_file):
            with open(self.record_file) as file:
                record = json.load(file)
            # A run that was set back by hand does not know what it will find.
            if record["metric"] == self.metric and record["iteration"] < self.trainer.start_iter:
                self.best, self.best_iter = record["value"], record["iteration"]

    def after_step(self):
        next_iter = self.trainer.iter + 1
        if self.period > 0 and next_iter % self.period == 0 and next_iter != self.trainer.max_iter:
            self._keep_if_better()

    def after_train(self):
        # As for EvalHook: not after a failure.
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._keep_if_better()

    def _keep_if_better(self):
        logger = logging.getLogger(__name__)
        storage = self.trainer.storage
        # A resumed run also has the values of before, perhaps under names that are no longer used.
        latest = {k: x for k, (x, when) in storage.latest().items() if when == storage.iter}
        name = next((name for name in self.names if name in latest), None)
        if name is None:
            there = ", ".join(sorted(x for x in latest if "/" in x)) or "nothing"
            logger.warning(
                f"No best checkpoint is saved: the evaluation gave no {self.metric}. It gave "
                f"{there}; set TEST.BEST_METRIC to one of these, or to '' for none."
            )
            return
        value, options, which = latest[name], {}, ""
        raw_name = next((name for name in self.raw_names if name in latest), None)
        if raw_name is not None:
            raw, which = latest[raw_name], " of the averaged weights"
            if self._is_better(raw, than=value):
                value, options, which = raw, {"raw": True}, " of the weights that are not averaged"
        if not self._is_better(value, than=self.best):
            best = "" if self.best is None else f"; the best is {self.best:.4f}"
            logger.info(f"{self.metric}{which} is {value:.4f}{best}.")
            return
        self.checkpointer.save(_FILE_NAME, tag_last=False, **options)
        self.best = value
        self.best_iter = min(self.trainer.iter, self.trainer.max_iter - 1)
        record = {"metric": self.metric, "value": value, "iteration": self.best_iter}
        with write_atomically(self.record_file, "w") as file:
            json.dump(record, file)
        logger.info(f"{self.metric}{which} is {value:.4f}, the best so far; saved as {_FILE_NAME}.")

    def _is_better(self, value, than):
        if not math.isfinite(value) or than is None or not math.isfinite(than):
            return math.isfinite(value)
        return value < than if self.lower_is_better else value > than


class StopTraining(BaseException):
    """Ends a training as if it had come to its last iteration.

    Not an Exception: detectron2 logs these as failures.
    """


class EarlyStopping(HookBase):
    """Stop when the last evaluations brought nothing better.

    How many they are follows from the iteration of the best one, which :class:`BestCheckpointer`
    remembers, so that a resumed run stops where it would have stopped. A run that was stopped stays
    stopped on ``--resume``, unless it is given more patience: its last iteration is that of an
    evaluation, which :meth:`Trainer.before_train` takes up. Register it on all processes, after
    that hook.
    """

    def __init__(self, patience, period, best):
        """
        Args:
            patience (int): number of evaluations, above 0.
            period (int): period of the evaluations, in iterations, above 0.
            best (BestCheckpointer): None except on the main process.
        """
        self.patience = patience
        self.period = period
        self.best = best

    def after_step(self):
        if self._is_evaluated(self.trainer.iter):
            self._stop_if_stale()

    def is_stale_after(self, iteration):
        """Whether to stop after `iteration`, as the main process knows."""
        best = self.best
        if best is None or best.best_iter is None or not self._is_evaluated(iteration):
            return False
        return iteration - best.best_iter >= self.patience * self.period

    def _is_evaluated(self, iteration):
        next_iter = iteration + 1
        return next_iter % self.period == 0 and next_iter != self.trainer.max_iter

    def _stop_if_stale(self):
        best, iteration = self.best, self.trainer.iter
        if not comm.all_gather(self.is_stale_after(iteration))[0]:  # of the main process
            return
        if best is not None:
            logging.getLogger(__name__).info(
                f"Stopping after {iteration + 1} iterations: none of the last {self.patience} "
                f"evaluations was better than {best.metric} {best.best:.4f} after "
                f"{best.best_iter + 1}, saved as {_FILE_NAME} (SOLVER.PATIENCE)."
            )
        self.trainer.max_iter = self.trainer.iter = iteration + 1  # as after the last iteration
        raise StopTraining

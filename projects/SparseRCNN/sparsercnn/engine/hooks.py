"""Training hooks that detectron2 lacks."""

import json
import logging
import math
import os

from detectron2.engine import HookBase

from ..files import write_atomically

__all__ = ["BestCheckpointer"]

_FILE_NAME = "model_best"  # without extension


class BestCheckpointer(HookBase):
    """Save the checkpoint with the best value of a metric under its own name.

    Unlike detectron2's hook of the same name, it restores the best value on ``--resume``, and does
    not change which checkpoint ``--resume`` starts from. Register it after the `EvalHook` that
    computes the metric, on the main process only.
    """

    def __init__(self, period, checkpointer, metric, aliases=(), lower_is_better=False):
        """
        Args:
            period (int): period of the `EvalHook`, in iterations; 0: it runs only at the end.
            checkpointer (SafeCheckpointer): writes ``model_best.pth``; ``model_best.json`` beside
                it holds the metric's name, its value and the iteration.
            metric (str): "TASK/METRIC".
            aliases (sequence[str]): other names of the metric, tried if `metric` is missing.
            lower_is_better (bool): True: the best value is the lowest.
        """
        self.period = period
        self.checkpointer = checkpointer
        self.metric = metric
        self.names = (metric, *aliases)
        self.lower_is_better = lower_is_better
        self.best = None

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
                self.best = record["value"]

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
        latest = self.trainer.storage.latest()
        name = next((name for name in self.names if name in latest), None)
        if name is None:
            there = ", ".join(sorted(x for x in latest if "/" in x)) or "nothing"
            logger.warning(
                f"No best checkpoint is saved: the evaluation gave no {self.metric}. It gave "
                f"{there}; set TEST.BEST_METRIC to one of these, or to '' for none."
            )
            return
        value = latest[name][0]
        if not self._is_better(value):
            best = "" if self.best is None else f"; the best is {self.best:.4f}"
            logger.info(f"{self.metric} is {value:.4f}{best}.")
            return
        self.checkpointer.save(_FILE_NAME, tag_last=False)
        self.best = value
        iteration = min(self.trainer.iter, self.trainer.max_iter - 1)
        record = {"metric": self.metric, "value": value, "iteration": iteration}
        with write_atomically(self.record_file, "w") as file:
            json.dump(record, file)
        logger.info(f"{self.metric} is {value:.4f}, the best so far; saved as {_FILE_NAME}.")

    def _is_better(self, value):
        if not math.isfinite(value) or self.best is None:
            return math.isfinite(value)
        return value < self.best if self.lower_is_better else value > self.best

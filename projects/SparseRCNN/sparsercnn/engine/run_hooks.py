"""Training hooks for what a run writes, so that a run that was killed ends as one left alone.

The order of what happens after an iteration makes that so: its checkpoint, the stop if a signal
asks for it, its evaluation, the best checkpoint, its row in `metrics.json`. A run that is resumed
does from this list what is missing of the checkpoint's iteration: all of it if there is no row.
"""

import logging
import os
import re
import time

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter

from .hooks import EarlyStopping
from .interruption import Stopped, at_once
from .metrics_file import drop_rows
from .run_folder import LATEST, find_checkpoints, remove_latest
from .trackers import TrackerWriter

__all__ = ["Checkpoints", "Evaluation", "MetricsWriter", "StopOnSignal"]

_WINDOW = 20  # values over which detectron2's writers smooth
_TIMES = ("time", "data_time", "eta_seconds")  # of this machine, and this start of the run


class Checkpoints(HookBase):
    """Save checkpoints: ``model_0004999.pth`` and so on periodically, ``model_final.pth`` at the
    end, and in between ``model_latest.pth``, which is overwritten.

    For the main process only. Register it before evaluation and writers.
    """

    def __init__(self, checkpointer, period, *, minutes=0, max_to_keep=0, eval_period=0):
        """
        Args:
            checkpointer (SafeCheckpointer): writes the files.
            period (int): of numbered checkpoints, in iterations.
            minutes (float): after which `model_latest` is written if no other one was; 0: never.
            max_to_keep (int): numbered checkpoints that are kept, the newest; 0: all.
            eval_period (int): of evaluations, in iterations, before each of which there is a
                checkpoint to evaluate again if it is interrupted; 0: none before the end.
        """
        self.checkpointer = checkpointer
        self.period = period
        self.seconds = 60 * minutes
        self.max_to_keep = max_to_keep
        self.eval_period = eval_period
        self._saved_at = -1
        self._saved_time = time.monotonic()

    def before_train(self):
        self._saved_time = time.monotonic()
        self._remove_old()  # of a run that was killed before it did

    def after_step(self):
        done = self.trainer.iter + 1
        is_last = done >= self.trainer.max_iter
        if self.period > 0 and done % self.period == 0:
            self._save(f"model_{self.trainer.iter:07d}")
            self._remove_old()
        if is_last:
            self._save("model_final")
            remove_latest(self.checkpointer.save_dir)
            return
        waited = time.monotonic() - self._saved_time
        is_evaluated = self.eval_period > 0 and done % self.eval_period == 0
        if is_evaluated or 0 < self.seconds <= waited:
            self.save_now()

    def save_now(self):
        """Save the iteration that has just ended, unless that has been done.

        Returns:
            str: name of the file.
        """
        if self._saved_at != self.trainer.iter:
            self._save(LATEST)
        return os.path.basename(self.checkpointer.get_checkpoint_file())

    def _save(self, name):
        self.checkpointer.save(name, iteration=self.trainer.iter)
        self._saved_at, self._saved_time = self.trainer.iter, time.monotonic()

    def _remove_old(self):
        if self.max_to_keep <= 0:
            return
        folder = self.checkpointer.save_dir
        matches = [re.fullmatch(r"model_(\d{7,})\.pth", x) for x in find_checkpoints(folder)]
        # Later ones are of a run that was set back by hand.
        numbered = [x[0] for x in matches if x and int(x[1]) <= self.trainer.iter]
        for name in numbered[: -self.max_to_keep]:
            os.remove(os.path.join(folder, name))


class StopOnSignal(HookBase):
    """End the training after an iteration, with a checkpoint, when any process has been asked to.

    Register it in all processes after :class:`Checkpoints`.
    """

    def __init__(self, checkpoints):
        """
        Args:
            checkpoints (Checkpoints): on the main process; None on others.
        """
        self.checkpoints = checkpoints

    def after_step(self):
        if not self.trainer._trainer.stop_requested:
            return
        if self.checkpoints is not None:
            name = self.checkpoints.save_now()
            logging.getLogger(__name__).info(
                f"A signal asks to stop: iteration {self.trainer.iter} is in {name}; --resume "
                "continues from there."
            )
        comm.synchronize()  # whoever ends first could take the others along
        raise Stopped


class Evaluation(hooks.EvalHook):
    """An EvalHook that a signal ends at once, since the resumed run evaluates again."""

    def _do_eval(self):
        with at_once():
            super()._do_eval()


class MetricsWriter(hooks.PeriodicWriter):
    """A PeriodicWriter whose rows do not depend on interruptions.

    The values over which losses are smoothed are in checkpoints. Rows of iterations that are done
    again are removed from `metrics.json`. There is a row for each evaluation.

    Register it in all processes, as the last hook; the main process writes.
    """

    def __init__(self, folder, period=20, eval_period=0):
        """
        Args:
            folder (str): of `metrics.json`.
            period (int): in iterations.
            eval_period (int): of evaluations, in iterations; 0: none before the end.
        """
        super().__init__([], period)
        self.folder = folder
        self.eval_period = eval_period
        self.last_row = -1  # the last iteration in metrics.json, of those done before this start
        self._restored = {}

    def state_dict(self):
        storage = getattr(self.trainer, "storage", None)
        if storage is None:  # not started
            return self._restored
        hints = storage.smoothing_hints()
        return {
            name: [hints[name], [list(x) for x in history.values()[-_WINDOW:]]]
            for name, history in storage.histories().items()
            if name not in _TIMES
        }

    def load_state_dict(self, state_dict):
        self._restored = state_dict

    def before_train(self):
        storage, start = self.trainer.storage, self.trainer.start_iter
        for name, (hint, values) in self._restored.items():
            for value, storage.iter in values:
                storage.put_scalar(name, value, smoothing_hint=hint)
        storage.iter = start
        if not comm.is_main_process():
            return
        stops = any(
            hook.is_stale_after(start - 1)
            for hook in self.trainer._hooks
            if isinstance(hook, EarlyStopping)
        )
        goes_on = 0 < start < self.trainer.max_iter and not stops
        self.last_row = drop_rows(self.folder, start, goes_on)
        self._writers = self.trainer.build_writers()  # which open the file
        for writer in self._writers:
            if isinstance(writer, (JSONWriter, TensorboardXWriter, TrackerWriter)):
                writer._last_write = self.last_row

    def after_step(self):
        done = self.trainer.iter + 1
        periods = (self._period, self.eval_period or self._period, self.trainer.max_iter)
        # Once: detectron2's printer divides by the iterations since it was last called.
        if any(done % period == 0 for period in periods):
            for writer in self._writers:
                writer.write()
            # Which TensorBoard alone takes, and without it nobody.
            self.trainer.storage.clear_images()
            self.trainer.storage.clear_histograms()

    def after_train(self):
        # A run that failed or was stopped has no row that one left alone would not have.
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()
            return
        for writer in self._writers:
            writer.close()

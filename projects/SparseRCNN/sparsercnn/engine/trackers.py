"""Where metrics go beside `metrics.json`: TensorBoard, a CSV file, Weights & Biases, MLflow."""

import contextlib
import csv
import json
import logging
import os
import re
import time
from collections import defaultdict
from pathlib import Path

import yaml
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage

from ..extras import require_extra
from ..files import write_atomically
from .metrics_file import read_metrics

__all__ = ["TrackerWriter", "build_trackers", "require_trackers"]

_WINDOW = 20  # values over which detectron2's writers smooth
_PROJECT = "sparsercnn"  # unless the tracker's own variable of the environment names another
_RUNS = "trackers.json"  # ids of this run, for --resume


def require_trackers(names):
    """Raise MissingExtraError if a tracker is not installed.

    Args:
        names (sequence[str]): the key TRACKERS.
    """
    for name in names:
        if name in ("wandb", "mlflow"):
            require_extra(name, name)


def build_trackers(cfg, resumed=False):
    """Build the writers of TRACKERS, on the main process, in a training.

    Args:
        cfg (CfgNode): the whole config.
        resumed (bool): the training goes on from a checkpoint, and so do its runs in trackers.

    Returns:
        list[EventWriter]: to be called after `metrics.json` is written.
    """
    folder = cfg.OUTPUT_DIR
    config = yaml.safe_load(cfg.dump())
    builders = {
        "tensorboard": lambda: TensorboardXWriter(folder),
        "csv": lambda: _Csv(folder),
        "wandb": lambda: _Wandb(folder, config, resumed),
        "mlflow": lambda: _Mlflow(folder, config, resumed),
    }
    return [builders[name]() for name in dict.fromkeys(cfg.TRACKERS)]


class TrackerWriter(EventWriter):
    """Sends each value of the event storage once, smoothed as in `metrics.json`."""

    def __init__(self):
        self._last_write = -1

    def write(self):
        values = get_event_storage().latest_with_smoothing_hint(_WINDOW)
        rows = defaultdict(dict)
        for name, (value, iteration) in values.items():
            if iteration > self._last_write:
                rows[iteration][name] = float(value)
        for iteration in sorted(rows):
            self.send(iteration, rows[iteration])
            self._last_write = iteration

    def send(self, iteration, values):
        """
        Args:
            iteration (int): at which the values were put.
            values (dict[str, float]): by name.
        """
        raise NotImplementedError


class _Csv(TrackerWriter):
    """``metrics.csv``: the rows of `metrics.json`, with a column for each name."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)
        self.columns, self.last = [], -1
        self._rewrite()  # a resumed run does iterations again, whose rows metrics.json has lost

    def send(self, iteration, values):
        row = {"iteration": iteration, **values}
        if iteration <= self.last:  # written along with another one
            return
        self.last = iteration
        if not set(row) <= set(self.columns):
            self._rewrite()
            return
        with open(self.folder / "metrics.csv", "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _rewrite(self):
        rows = read_metrics(self.folder)
        self.columns = list(dict.fromkeys(["iteration", *(key for row in rows for key in row)]))
        self.last = rows[-1]["iteration"] if rows else -1
        with write_atomically(os.fspath(self.folder / "metrics.csv"), "w") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\r\n")
            writer.writeheader()
            writer.writerows(rows)


class _Remote(TrackerWriter):
    """A tracker that may be on another machine: its failures do not end the training.

    Attributes:
        name (str): its key in TRACKERS.
        run_id (str): that it gave the run in an earlier start; None: there is none.
    """

    def __init__(self, folder, resumed):
        super().__init__()
        self.folder = folder
        self.run_id = self._ids().get(self.name) if resumed else None  # of an earlier start
        self._has_failed = False

    def keep(self, run_id):
        """Remember the id (str) of the run for a resumed training."""
        with write_atomically(os.path.join(self.folder, _RUNS), "w") as file:
            json.dump({**self._ids(), self.name: run_id}, file)

    def _ids(self):
        path = os.path.join(self.folder, _RUNS)
        with contextlib.suppress(FileNotFoundError, ValueError), open(path) as file:
            return json.load(file)
        return {}

    @contextlib.contextmanager
    def tolerant(self):
        """A block whose exceptions are logged, the first with its cause."""
        try:
            yield
        except Exception as error:  # of any library that the tracker uses
            if not self._has_failed:
                logging.getLogger(__name__).warning(
                    f"The tracker {self.name} has failed, and the training goes on without what it "
                    f"misses; metrics.json has all. {type(error).__name__}: {error}"
                )
            self._has_failed = True


class _Wandb(_Remote):
    name = "wandb"

    def __init__(self, folder, config, resumed):
        super().__init__(folder, resumed)
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=os.environ.get("WANDB_NAME", _name(folder)),
            dir=folder,
            config=config,
            id=self.run_id,
            resume="allow",
        )
        self.keep(self.run.id)

    def send(self, iteration, values):
        with self.tolerant():
            self.run.log(values, step=iteration)

    def close(self):
        with self.tolerant():
            self.run.finish()


class _Mlflow(_Remote):
    name = "mlflow"

    def __init__(self, folder, config, resumed):
        super().__init__(folder, resumed)
        from mlflow import MlflowClient

        # Without a server, the library would write to the folder that the program was started in.
        folder = os.path.abspath(folder)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self.client = MlflowClient(tracking_uri=uri or f"sqlite:///{folder}/mlflow.db")
        self.id = self.run_id
        if self.id is None:
            self.id = self._create_run(None if uri else f"file://{folder}/mlartifacts")
            self.keep(self.id)
        else:
            self.client.update_run(self.id, status="RUNNING")
        with self.tolerant():
            self.client.log_dict(self.id, config, "config.yaml")

    def _create_run(self, artifacts):
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            number = self.client.create_experiment(name, artifact_location=artifacts)
        else:
            number = found.experiment_id
        return self.client.create_run(number, run_name=_name(self.folder)).info.run_id

    def send(self, iteration, values):
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_allowed(key), x, now, iteration) for key, x in values.items()]
        with self.tolerant():
            self.client.log_batch(self.id, metrics=metrics)

    def close(self):
        with self.tolerant():
            self.client.set_terminated(self.id)


def _name(folder):
    return os.path.basename(os.path.abspath(folder))


def _allowed(name):
    """A name of a metric without the characters that MLflow refuses."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII)

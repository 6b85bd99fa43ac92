"""Numbers of a sweep's runs, as their folders have them."""

import math
import re
from dataclasses import dataclass, field

from .progress import seconds_per_iteration
from .run_folder import FINISHED, RunState, read_metrics, read_state
from .spec import Run, Sweep, SweepError

__all__ = ["RunResult", "SweepResults", "gather_results"]

# Evaluators' names for what they evaluate. `metrics.json` has other "a/b", such as "rpn/...".
_TASKS = ("bbox", "segm", "keypoints", "sem_seg", "panoptic_seg", "box_proposals")
_COCO_ORDER = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class RunResult:
    """What a run has given so far.

    Attributes:
        run (Run):
        state (RunState):
        metrics (dict[str, float]): of the last evaluation of a finished run, those that are finite
            numbers; "TASK/METRIC" or, of a class, "TASK/METRIC-CLASS".
        rows (list[dict]): of `metrics.json`.
        seconds (float): of an iteration, the median; None: not known.
        gpu_memory (float): the peak in MiB; None: `metrics.json` has none.
        host_memory (float): likewise, of the process; None: not known.
    """

    run: Run
    state: RunState
    metrics: dict = field(default_factory=dict)
    rows: list = field(default_factory=list)
    seconds: float | None = None
    gpu_memory: float | None = None
    host_memory: float | None = None


@dataclass(frozen=True)
class SweepResults:
    """All runs of a sweep.

    Attributes:
        sweep (Sweep):
        runs (list[RunResult]): in the order of `sweep.runs`.
    """

    sweep: Sweep
    runs: list

    @property
    def finished(self):
        """list[RunResult]: those that have a value of the sweep's metric."""
        return [r for r in self.runs if self.sweep.metric in r.metrics]

    @property
    def unfinished(self):
        """list[RunResult]: the others."""
        return [r for r in self.runs if self.sweep.metric not in r.metrics]

    def of_variant(self, name):
        """
        Returns:
            dict[int, RunResult]: the variant's finished runs by seed.
        """
        return {r.run.seed: r for r in self.finished if r.run.variant.name == name}

    def values(self, name, metric):
        """
        Returns:
            dict[int, float]: a metric of the variant's finished runs by seed.
        """
        runs = self.of_variant(name)
        return {seed: r.metrics[metric] for seed, r in runs.items() if metric in r.metrics}

    def pairs(self, name, other, metric):
        """A variant and another one, over the seeds that both have.

        Returns:
            list[tuple[float, float]]: values of `name` and of `other`.
        """
        values, others = self.values(name, metric), self.values(other, metric)
        return [(values[seed], others[seed]) for seed in values if seed in others]

    @property
    def metrics(self):
        """list[str]: all metrics but those of single classes, the sweep's first."""
        names = {m for r in self.finished for m in r.metrics if _split(m)[2] is None}
        return sorted(names, key=lambda name: (name != self.sweep.metric, _order(name)))

    @property
    def class_metrics(self):
        """dict[str, dict[str, str]]: "TASK/METRIC" -> class -> the key of its metric."""
        groups = {}
        for key in sorted({m for r in self.finished for m in r.metrics}):
            task, metric, name = _split(key)
            if name is not None:
                groups.setdefault(f"{task}/{metric}", {})[name] = key
        return groups


def gather_results(sweep):
    """Read the folders of all runs.

    Args:
        sweep (Sweep):

    Returns:
        SweepResults:

    Raises:
        SweepError: no run is finished.
    """
    results = SweepResults(sweep, [_read(run, sweep.metric) for run in sweep.runs])
    if not results.finished:
        counts = {}
        for result in results.runs:
            counts[result.state.state] = counts.get(result.state.state, 0) + 1
        states = ", ".join(f"{n} {state}" for state, n in counts.items())
        raise SweepError(
            f"{sweep.file}: no run in {sweep.output} has a result yet, so that there is nothing to "
            f"report; {states}. `sweep.py status` lists them."
        )
    return results


def _read(run, metric):
    state = read_state(run)
    rows = read_metrics(run.folder)
    seconds = seconds_per_iteration(run.folder)
    if state.state != FINISHED:
        return RunResult(run, state, rows=rows, seconds=seconds)
    memory = [row["max_mem"] for row in rows if "max_mem" in row]
    tasks = {*_TASKS, metric.rpartition("/")[0]}
    return RunResult(
        run,
        state,
        metrics={
            key: value
            for key, value in state.result["metrics"].items()
            if _split(key)[0].rpartition("/")[2] in tasks and math.isfinite(value)
        },
        rows=rows,
        seconds=seconds,
        gpu_memory=max(memory) if memory else None,
        host_memory=state.result.get("peak_memory_mib"),
    )


# The name of a class may have slashes and hyphens, and so may that of a data set, which comes first
# where there is more than one: "voc:/data/a-b@test/bbox/AP-t-shirt".
_METRIC = re.compile(rf"((?:.*/)?(?:{'|'.join(_TASKS)}))/([^-/]+)(?:-(.+))?")


def _split(key):
    """Task, metric, and class or None."""
    match = _METRIC.fullmatch(key)
    if match:
        return match.groups()
    task, _, metric = key.rpartition("/")
    return task, metric, None


def _order(name):
    task, _, metric = name.rpartition("/")
    known = _COCO_ORDER.index(metric) if metric in _COCO_ORDER else len(_COCO_ORDER)
    return task, known, metric

"""States and numbers of a sweep's runs, as their folders have them, in data frames."""

import math
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from ..analysis.statistics import PairedTest, holm, paired_test
from ..engine.schedule import max_iterations
from ..errors import SweepError
from ..evaluation.metric_names import metric_order, split_metric
from .run_folder import read_state
from .spec import Sweep

__all__ = ["SweepResults", "compare_variants", "format_status", "gather_results", "main_effects"]

MADE_ON = ("hardware", "host", "torch", "python")  # of a run's result


def read_runs(sweep, lengths=None):
    """A row for each of `sweep.runs` (DataFrame), as their folders are now; of "length" iterations,
    which an earlier call may give, "done" are done. Metrics are of the last evaluation."""
    if lengths is None:
        lengths = _lengths(run.load_config() for run in sweep.runs)
    rows = [_row(run, sweep.metric) for run in sweep.runs]
    runs = pd.DataFrame(rows).assign(length=lengths)
    return runs.assign(done=runs[["iterations", "length"]].min(axis=1))


def _lengths(configs):
    """Iterations of runs; of those in epochs, it reads the training data, each only once."""
    from ..data import count_train_images, register_datasets  # slow: imports detectron2's data sets

    images, lengths = {}, []
    for cfg in configs:
        num_images = None
        if cfg.SOLVER.EPOCHS is not None:
            data = str((cfg.DATASETS, cfg.DATALOADER))
            if data not in images:
                register_datasets(cfg.DATASETS.TRAIN)
                images[data] = count_train_images(cfg)
            num_images = images[data]
        lengths.append(max_iterations(cfg, num_images))
    return lengths


def _row(run, metric):
    state = read_state(run)
    result = state.result or {"metrics": {}}
    times = pd.Series([row["time"] for row in state.rows if "time" in row], dtype=float)
    memory = [row["max_mem"] for row in state.rows if state.result and "max_mem" in row]
    task = metric.rpartition("/")[0]
    metrics = {
        name: value
        for name, value in result["metrics"].items()
        if (split_metric(name)[0] or name.rpartition("/")[0] == task) and math.isfinite(value)
    }
    return {
        "run": run,
        "variant": run.variant.name,
        "seed": run.seed,
        "state": state.state,
        "iterations": result["iteration"] if metrics else state.iteration,
        "error": state.error,
        **metrics,
        "seconds_per_iteration": times.median(),
        "gpu_memory_mib": max(memory, default=None),
        "host_memory_mib": result.get("peak_memory_mib"),
        "history": state.rows,
        **{key: result.get(key) for key in (*MADE_ON, "finished")},
    }


def count_states(runs):
    """How many runs are in which state: "2 finished, 1 running"."""
    counts = runs["state"].value_counts()
    states = [x for x in ("finished", "running", "waiting", "stopped", "failed") if x in counts]
    return ", ".join(f"{counts[state]} {state}" for state in states)


def seconds_left(runs, parallel):
    """Seconds (float) until all runs end, `parallel` at a time; NaN before any times are known."""
    seconds = runs["seconds_per_iteration"].astype(float)
    seconds = seconds.fillna(seconds.mean()) * (runs["length"] - runs["done"])
    left = seconds[runs["state"].isin(["running", "waiting", "stopped"])]
    return max(left.sum(min_count=1) / parallel, left.max())


def format_status(sweep):
    """A table of all runs, and a line that sums it up (str)."""
    runs = read_runs(sweep)
    runs["iteration"] = runs["done"].astype(str) + "/" + runs["length"].astype(str)
    columns = ["variant", "seed", "state", "iteration", sweep.metric, "error"]
    table = runs.reindex(columns=columns).astype(object)
    text = tabulate(table.where(table.notna(), None), "keys", floatfmt=".2f", showindex=False)
    left = seconds_left(runs, sweep.resources.parallel)
    summary = f"; about {left / 60:.0f} min of training are left" if left > 0 else ""
    return f"{text}\n\n{len(runs)} runs: {count_states(runs)}{summary}. Folder: {sweep.output}"


@dataclass(frozen=True)
class SweepResults:
    """All runs of a sweep."""

    sweep: Sweep
    runs: pd.DataFrame  # see read_runs
    finished: pd.DataFrame  # the runs that have a value of the sweep's metric
    history: pd.DataFrame  # the finished runs' rows of metrics.json, with "variant" and "seed"
    metrics: list  # names of all metrics but those of single classes, the sweep's first
    class_metrics: pd.DataFrame  # for each column of a class's metric, its "metric" and "class"

    def table(self, metric):
        """A metric of the finished runs (DataFrame): a row for each seed, a column per variant."""
        table = self.finished.pivot(index="seed", columns="variant", values=metric)
        return table.reindex(self.sweep.seeds, columns=self.sweep.names)


def gather_results(sweep):
    """Read the folders of all runs (SweepResults). Raise SweepError if no run is finished."""
    runs = read_runs(sweep)
    if sweep.metric not in runs:
        raise SweepError(
            f"{sweep.file}: no run in {sweep.output} has a result yet, so that there is nothing to "
            f"report; {count_states(runs)}. `sweep.py status` lists them."
        )
    finished = runs[runs[sweep.metric].notna()]
    rows = zip(finished["history"], finished["variant"], finished["seed"], strict=True)
    history = [pd.DataFrame(x).assign(variant=variant, seed=seed) for x, variant, seed in rows]
    names = sorted(name for name in finished.dropna(axis=1, how="all") if "/" in name)
    parts = pd.DataFrame(map(split_metric, names), names, ["metric", "class"]).dropna()
    others = sorted(set(names) - set(parts.index) - {sweep.metric}, key=metric_order)
    history = pd.concat(history, ignore_index=True)
    return SweepResults(sweep, runs, finished, history, [sweep.metric, *others], parts)


def compare_variants(results):
    """A row for each variant but the baseline (DataFrame), against it over the seeds of both.

    The columns are those of :class:`PairedTest`, "p_holm" (after Holm's correction), and
    "exceeds_noise": "yes", "no", or why neither.
    """
    table = results.table(results.sweep.metric)
    baseline = table.pop(results.sweep.baseline)
    tests = [paired_test(table[name], baseline) for name in table]
    return _with_verdicts(tests, table.columns, "one seed")


def main_effects(results):
    """Each level of an axis against the first, over all combinations of the other axes and seeds.

    The rows (DataFrame) are as of :func:`compare_variants`, with the index "axis", "level" and
    "against"; there are none if the sweep has no axes.
    """
    keys = [(*run.variant.levels.values(), run.seed) for run in results.finished["run"]]
    values = results.finished[results.sweep.metric].set_axis(pd.MultiIndex.from_tuples(keys))
    names, tests = [], []
    for position, (axis, (first, *others)) in enumerate(results.sweep.axes.items()):
        table = values.unstack(position).reindex(columns=[first, *others])
        names += [(axis, level, first) for level in others]
        tests += [paired_test(table[level], table[first]) for level in others]
    names = pd.DataFrame(names, columns=["axis", "level", "against"])
    return _with_verdicts(tests, pd.MultiIndex.from_frame(names), "one pair")


def _with_verdicts(tests, index, of_one_pair):
    def verdict(test, p_holm):
        if not math.isnan(p_holm):
            return "yes" if p_holm < 0.05 else "no"
        if test.pairs < 2:
            return of_one_pair if test.pairs else "no pair"
        return "same results" if test.difference == 0 else "no spread"

    p_holm = holm([test.p for test in tests])
    verdicts = list(map(verdict, tests, p_holm))
    frame = pd.DataFrame(tests, index=index, columns=PairedTest._fields)
    return frame.assign(p_holm=p_holm, exceeds_noise=verdicts)

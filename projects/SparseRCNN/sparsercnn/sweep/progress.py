"""How far a sweep is: a progress bar while it runs, and a table at any time."""

import statistics
import sys
import time

from tabulate import tabulate
from tqdm import tqdm

from .run_folder import FAILED, FINISHED, RUNNING, STOPPED, WAITING, read_metrics, read_state

__all__ = ["Progress", "format_status"]


class Progress:
    """A progress bar over the iterations of all runs, with the expected end.

    A context manager; :meth:`update` reads the folders again.
    """

    def __init__(self, sweep):
        """
        Args:
            sweep (Sweep):
        """
        self.sweep = sweep
        self.lengths = {run: run.load_config().SOLVER.MAX_ITER for run in sweep.runs}
        self.bar = None

    def __enter__(self):
        on_terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=sum(self.lengths.values()),
            initial=self._look()[0],
            unit="it",
            mininterval=0.5 if on_terminal else 60,  # a log gets a line a minute
            dynamic_ncols=on_terminal,
        )
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def update(self):
        """Show the state of now."""
        done, counts = self._look()
        text = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        left = expected_seconds(self.sweep, self.lengths)
        if left is not None:
            text += f", ends {time.strftime('%a %H:%M', time.localtime(time.time() + left))}"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(done - self.bar.n)

    def _look(self):
        counts = dict.fromkeys((FINISHED, RUNNING, WAITING, STOPPED, FAILED), 0)
        done = 0
        for run, length in self.lengths.items():
            state = read_state(run)
            counts[state.state] += 1
            done += length if state.state == FINISHED else min(state.iteration, length)
        return done, counts


def expected_seconds(sweep, lengths):
    """How long the runs that are left will take, by the time of an iteration so far.

    Args:
        sweep (Sweep):
        lengths (dict[Run, int]): iterations of each run.

    Returns:
        float: None before the first times are known.
    """
    times = {run: seconds_per_iteration(run.folder) for run in sweep.runs}
    known = [t for t in times.values() if t is not None]
    if not known:
        return None
    left = []
    for run, length in lengths.items():
        state = read_state(run)
        if state.state not in (FINISHED, FAILED):
            seconds = times[run] if times[run] is not None else statistics.mean(known)
            left.append(seconds * max(length - state.iteration, 0))
    return max(sum(left) / sweep.resources.parallel, max(left, default=0.0))


def seconds_per_iteration(folder):
    """
    Args:
        folder (Path): of a run.

    Returns:
        float: the median of what `metrics.json` has; None if that is nothing yet.
    """
    times = [row["time"] for row in read_metrics(folder) if "time" in row]
    return statistics.median(times) if times else None


def format_status(sweep):
    """
    Args:
        sweep (Sweep):

    Returns:
        str: a table of all runs, and a line with how many are in which state.
    """
    rows, counts = [], {}
    lengths = {run: run.load_config().SOLVER.MAX_ITER for run in sweep.runs}
    for run, length in lengths.items():
        state = read_state(run)
        counts[state.state] = counts.get(state.state, 0) + 1
        metric = state.result["metrics"].get(sweep.metric) if state.result else None
        note = state.failure["error"] if state.failure else ""
        iteration = f"{min(state.iteration, length)}/{length}"
        rows.append([run.variant.name, run.seed, state.state, iteration, metric, note])
    table = tabulate(
        rows, ["variant", "seed", "state", "iteration", sweep.metric, "error"], floatfmt=".2f"
    )
    summary = ", ".join(f"{n} {state}" for state, n in counts.items())
    left = expected_seconds(sweep, lengths)
    if left:
        summary += f"; about {left / 60:.0f} min of training are left"
    return f"{table}\n\n{len(rows)} runs: {summary}. Folder: {sweep.output}"

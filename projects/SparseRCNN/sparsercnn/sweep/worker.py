"""What a job of a sweep does: train one run after the other, each by `train_net.py`."""

import contextlib
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import submitit
import torch

from .run_folder import FAILURE, RESULT, claim, note_config, read_metrics, write_json

__all__ = ["Worker", "train_command"]

_PROJECT = Path(__file__).resolve().parents[2]
TRAIN_NET = _PROJECT / "train_net.py"
_POLL_SECONDS = 0.1
_OUTPUT = "train_net.txt"  # what train_net.py prints, of all attempts


class Worker:
    """The function of a submitit job.

    It takes the first of its runs that is neither claimed nor finished nor failed, until none is
    left, so that several workers with the same list share it.
    """

    def __init__(self, runs, metric, resources, gpu_ids=()):
        """
        Args:
            runs (sequence[Run]): in the order in which they are to be taken.
            metric (str): that an evaluation must give, as in `metrics.json`.
            resources (Resources):
            gpu_ids (sequence[str]): those of this machine to use; () where the cluster gives them.
        """
        self.runs = list(runs)
        self.metric = metric
        self.resources = resources
        self.gpu_ids = list(gpu_ids)

    def __call__(self):
        if self.gpu_ids:  # by names that submitit, which counts GPUs from 0, does not know
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpu_ids)
        job = submitit.JobEnvironment()
        for run in self.runs:
            if job.num_nodes > 1 and job.node > 0:
                # The first node sees to the folder.
                _train(self._command(run, job), run.folder, self._environment())
            else:
                self._take(run, job)

    def checkpoint(self):
        """What submitit starts anew when the cluster takes the job's node away."""
        return submitit.helpers.DelayedSubmission(self)

    def _take(self, run, job):
        with claim(run.folder, self.gpu_ids) as lock:
            ended = [run.folder / RESULT, run.folder / FAILURE]
            if lock is None or any(path.exists() for path in ended):
                return
            note_config(run)
            # The cluster sees to the time itself.
            hours = self.resources.hours if self.resources.cluster == "local" else None
            status, usage = _train(
                self._command(run, job), run.folder, self._environment(), (lock.fileno(),), hours
            )
            rows = read_metrics(run.folder)
            evaluations = [row for row in rows if self.metric in row]
            if status is None:
                failure = {"exit": None, "error": f"stopped after {hours:g} hours, as told"}
            elif status != 0:
                failure = {"exit": status, "error": _last_error(run.folder, status)}
            elif not evaluations:
                names = sorted({k for row in rows for k in row if "/" in k and "_lr" not in k})
                there = ", ".join(names) or "none"
                failure = {"exit": 0, "error": f"no metric {self.metric}; there are: {there}"}
            else:
                write_json(run.folder / RESULT, _result(evaluations[-1], usage))
                return
            write_json(run.folder / FAILURE, failure)

    def _environment(self):
        return {**os.environ, "OMP_NUM_THREADS": str(self.resources.threads)}

    def _command(self, run, job):
        if job.num_nodes == 1:
            return train_command(run, self.resources.gpus)
        # Jobs that share a node must not share a port.
        port = 20000 + sum(map(ord, job.job_id)) * 997 % 20000
        nodes = ["--num-machines", str(job.num_nodes), "--machine-rank", str(job.node)]
        nodes += ["--dist-url", f"tcp://{job.hostnames[0]}:{port}"]
        return train_command(run, self.resources.gpus, nodes)


def train_command(run, gpus, options=()):
    """The command line of a run.

    Args:
        run (Run):
        gpus (int): per node.
        options (sequence[str]): more options of `train_net.py`.

    Returns:
        list[str]:
    """
    command = [sys.executable, str(TRAIN_NET), "--num-gpus", str(gpus), "--resume", *options]
    return [*command, "--config-file", str(run.config_file), *run.opts]


def _train(command, folder, environment, pass_fds=(), hours=None):
    """Exit status (negative: a signal's number; None: it took longer than `hours`) and resource
    usage of train_net.py."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _OUTPUT, "ab") as output:
        output.write(f"$ {shlex.join(command)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=pass_fds,
        )
        try:
            ended, status, usage = _wait(process.pid, hours)
        except BaseException:  # also SystemExit, when the cluster takes the node away
            _stop(process)
            raise
        if not ended:
            _stop(process)
            return None, usage
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage


def _wait(pid, hours):
    """As os.wait4; the process number is 0 if it takes longer."""
    if hours is None:
        return os.wait4(pid, 0)
    deadline = time.monotonic() + 3600 * hours
    while True:
        found = os.wait4(pid, os.WNOHANG)
        if found[0] or time.monotonic() > deadline:
            return found
        time.sleep(_POLL_SECONDS)


def _stop(process):
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_error(folder, status):
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
        return f"killed by {name}{hint}"
    lines = (folder / _OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "no output")


def _result(row, usage):
    on_gpu = torch.cuda.is_available()
    return {
        "metrics": {k: v for k, v in row.items() if "/" in k},
        "iteration": row["iteration"],
        "peak_memory_mib": usage.ru_maxrss / 1024,  # of the host
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "hardware": torch.cuda.get_device_name() if on_gpu else _cpu_name(),
        "host": platform.node(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_name():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return platform.machine()

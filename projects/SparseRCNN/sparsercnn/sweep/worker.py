"""What a job of a sweep does: train one run after the other, each by a program of its own."""

import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import submitit
import torch

from ..engine.interruption import EXIT_STATUS
from ..engine.metrics_file import read_metrics
from ..files import write_json
from .run_folder import FAILURE, RESULT, claim, note_config
from .spec import Resources

__all__ = ["Worker", "train_command"]

_TRAIN = [sys.executable, "-m", "sparsercnn", "train"]
_OUTPUT = "train_net.txt"  # what the training prints, of all attempts


@dataclass
class Worker:
    """The function of a submitit job, which several workers with the same list of runs share.

    It takes the first run that is neither claimed nor finished nor failed, until none is left.
    """

    runs: list  # of Run, in the order in which they are to be taken
    metric: str  # that an evaluation must give, as in metrics.json
    resources: Resources  # of each run
    gpu_ids: list = field(default_factory=list)  # of this machine; empty on a cluster, or a CPU

    def __call__(self):
        if self.gpu_ids:  # by names that submitit, which counts GPUs from 0, does not know
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpu_ids)
        job = submitit.JobEnvironment()
        for run in self.runs:
            if job.node > 0:  # the first node sees to the folder
                self._train(run, job)
            else:
                self._take(run, job)

    def checkpoint(self):
        """What submitit starts anew when the cluster takes the job's node away."""
        return submitit.helpers.DelayedSubmission(self)

    def _take(self, run, job):
        with claim(run.folder, self.gpu_ids) as lock:
            if lock is None or any((run.folder / name).exists() for name in (RESULT, FAILURE)):
                return
            note_config(run)
            # The cluster sees to the time itself.
            hours = self.resources.hours if self.resources.cluster == "local" else math.inf
            status, usage = self._train(run, job, hours, (lock.fileno(),))
            rows = read_metrics(run.folder)
            evaluations = [row for row in rows if self.metric in row]
            if status == 0 and evaluations:
                write_json(run.folder / RESULT, _result(evaluations[-1], usage), indent=1)
                return
            if status == EXIT_STATUS:  # a signal has stopped it, and it can go on
                return
            if status is None:
                error = f"stopped after {hours:g} hours, as told"
            elif status != 0:
                error = _last_error(run.folder, status)
            else:
                names = sorted({k for row in rows for k in row if "/" in k and "_lr" not in k})
                error = f"no metric {self.metric}; there are: {', '.join(names) or 'none'}"
            write_json(run.folder / FAILURE, {"exit": status, "error": error}, indent=1)

    def _train(self, run, job, hours=math.inf, pass_fds=()):
        """Exit status (negative: a signal; None: it took longer than `hours`), and usage."""
        command = train_command(run, self.resources.gpus)
        if job.num_nodes > 1:
            # Jobs that share a node must not share a port.
            port = 20000 + sum(map(ord, job.job_id)) * 997 % 20000
            nodes = ["--num-machines", str(job.num_nodes), "--machine-rank", str(job.node)]
            # The nodes of a job that has waited in the queue need not start at the same moment.
            nodes += ["--join-timeout", "600"]
            command[len(_TRAIN) : len(_TRAIN)] = [
                *nodes,
                "--dist-url",
                f"tcp://{job.hostnames[0]}:{port}",
            ]
        run.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.resources.threads)}
        with open(run.folder / _OUTPUT, "ab") as output:
            output.write(f"$ {shlex.join(command)}\n".encode())
            output.flush()
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(command, env=environment, pass_fds=pass_fds, **streams)
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


def train_command(run, gpus):
    """The command line of a run (list[str]), with `gpus` on each node."""
    command = [*_TRAIN, "--num-gpus", str(gpus), "--resume"]
    return [*command, "--config-file", str(run.config_file), *run.opts]


def _wait(pid, hours):
    """As os.wait4; the process number is 0 if it takes longer."""
    deadline = time.monotonic() + 3600 * hours
    while not (found := os.wait4(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _stop(process):
    process.send_signal(signal.SIGTERM)  # which leaves a checkpoint
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_error(folder, status):
    if status < 0:
        hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{hint}"
    lines = (folder / _OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "no output")


def _result(row, usage):
    cpus = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    cpu = f"{cpus[0]}, {os.cpu_count()} cores" if cpus else platform.machine()
    return {
        "metrics": {k: v for k, v in row.items() if "/" in k},
        "iteration": row["iteration"],
        "peak_memory_mib": usage.ru_maxrss / 1024,  # of the host
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "host": platform.node(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }

"""Hand a sweep to submitit, on this machine or on SLURM, and wait for it."""

import shlex
import sys
import time

import submitit
from tqdm import tqdm

from ..engine.config_check import check_gpus
from ..engine.devices import visible_gpus
from ..engine.model_check import check_model
from ..errors import ConfigError, SweepError
from ..files import write_json
from .results import count_states, format_status, read_runs, seconds_left
from .run_folder import (
    FAILURE,
    JOB,
    LOCK,
    note_config,
    read_record,
    read_state,
    require_same_config,
)
from .spec import folder_name
from .worker import Worker, train_command

__all__ = ["dry_run", "launch"]

_UNKNOWN_SECONDS = 600.0  # after which a job that the cluster does not know is taken for gone


def dry_run(sweep):
    """What SLURM would be asked for, where it is used; then each run's command line (str)."""
    _check(sweep, models=False)
    resources = sweep.resources
    runs = _runs(sweep, "running", "waiting", "stopped", "failed")
    lines = [f"# {len(sweep.runs)} runs, {len(sweep.runs) - len(runs)} of them finished"]
    if resources.cluster == "slurm":
        options = _slurm_options(sweep)
        srun, at_a_time = options.pop("srun_args"), options.pop("array_parallelism")
        if len(runs) > 1:
            options["array"] = f"0-{len(runs) - 1}%{min(at_a_time, len(runs))}"
        lines += [f"#SBATCH --{key.replace('_', '-')}={value}" for key, value in options.items()]
        lines += [f"# each job: srun {shlex.join(srun)}"]
    else:
        each = f"each with {resources.gpus} GPUs and {resources.cpus} threads"
        lines += [f"# {resources.parallel} at a time on this machine, {each}"]
    for run in runs:
        lines += [f"# {run.name}", shlex.join(train_command(run, resources.gpus))]
    return "\n".join(lines)


def launch(sweep, wait=True):
    """Start, or go on with, all runs of a sweep that are neither finished nor at work.

    Args:
        sweep (Sweep): for this machine or SLURM, as its `resources` say.
        wait (bool): show the progress until all runs have ended.

    Returns:
        int: 0 if all runs are finished (or, without `wait`, submitted), 1 if not, 130 after
        Ctrl-C.

    Raises:
        SweepError: a model cannot be built; a folder has another config; SLURM or GPUs are missing.
    """
    _check(sweep)
    for run in sweep.runs:
        require_same_config(run)
    todo = _runs(sweep, "waiting", "stopped", "failed")
    on_slurm = sweep.resources.cluster == "slurm"
    jobs, num_known = _submit_to_slurm(sweep, todo) if on_slurm else _submit_here(sweep, todo)
    if not wait:
        known = f", {num_known} were there already" if num_known else ""
        print(f"{len(jobs) - num_known} jobs submitted{known}. The runs are in {sweep.output}.")
        return 0
    try:
        _watch(sweep, jobs)
    except KeyboardInterrupt:
        if on_slurm:
            print("\nThe jobs go on; the same command watches them.")
        else:
            _stop(sweep, jobs)
            print("\nInterrupted; the same command goes on from here.")
        return 130
    print(format_status(sweep))
    # A run's failure is not an exception, and a job that was killed leaves no pickle.
    errors = [job.exception() for job in jobs if job.paths.result_pickle.exists()]
    for error in filter(None, errors):
        print(f"A job broke off:\n{error}", file=sys.stderr)
    return int(len(_runs(sweep, "finished")) < len(sweep.runs))


def _runs(sweep, *states):
    return [run for run in sweep.runs if read_state(run).state in states]


def _watch(sweep, jobs):
    """Show the progress until all jobs have ended, and what other jobs are at work on."""
    on_terminal = sys.stderr.isatty()
    runs = read_runs(sweep)
    with tqdm(
        total=runs["length"].sum(),
        initial=runs["done"].sum(),
        unit="it",
        mininterval=0.5 if on_terminal else 60,  # a log gets a line a minute
        dynamic_ncols=on_terminal,
    ) as bar:
        while True:
            ended = all(map(_has_ended, jobs))
            runs = read_runs(sweep, runs["length"])
            left = seconds_left(runs, sweep.resources.parallel)
            end = time.localtime(time.time() + left) if left > 0 else None
            text = time.strftime(", ends %a %H:%M", end) if end else ""
            bar.set_postfix_str(count_states(runs) + text, refresh=False)
            bar.update(runs["done"].sum() - bar.n)
            if ended and "running" not in set(runs["state"]):
                return
            time.sleep(1)


def _stop(sweep, jobs):
    """End jobs of this machine. What a terminal sends has reached them, too; a `kill` has not."""
    _wait(lambda: not all(job.done() for job in jobs), seconds=3)
    for job in jobs:
        if not job.done():
            job.cancel()
    _wait(lambda: _runs(sweep, "running"), seconds=30)


def _wait(unfinished, seconds):
    deadline = time.monotonic() + seconds
    while unfinished() and time.monotonic() < deadline:
        time.sleep(0.1)


def _check(sweep, models=True):
    """Refuse what would fail later."""
    num_gpus = sweep.resources.gpus * sweep.resources.nodes
    for variant in sweep.variants:
        cfg = sweep.run(variant).load_config()
        try:
            check_gpus(cfg, num_gpus)
            if models:
                runs_here = sweep.resources.cluster == "local"
                check_model(cfg, True, max(num_gpus, 1), runs_here)
        except ConfigError as error:
            raise SweepError(f"{sweep.file}, variant '{variant.name}': {error}") from error


def _submit_here(sweep, runs):
    """As many workers as may run beside earlier ones; GPUs are their own, the runs are shared."""
    resources, running = sweep.resources, _runs(sweep, "running")
    taken = {gpu for run in running for gpu in (run.folder / LOCK).read_text().split(",")}
    free = [gpu for gpu in visible_gpus() if gpu not in taken] if resources.gpus else []
    num_workers = max(min(resources.parallel - len(running), len(runs)), 0)
    if num_workers * resources.gpus > len(free):
        raise SweepError(
            f"{num_workers} runs at a time with {resources.gpus} GPUs each need more than the "
            f"{len(free)} that are free here ({', '.join(free) or 'none'}). Lower --parallel."
        )
    _forget_failures(runs)
    jobs = []
    for i in range(num_workers):
        executor = submitit.LocalExecutor(folder=sweep.output / "submitit" / "%j")
        # A worker sees to the hours of each of its runs.
        minutes = 60 * (resources.hours + 1) * len(runs)
        executor.update_parameters(timeout_min=minutes, gpus_per_node=resources.gpus)
        gpus = free[i * resources.gpus : (i + 1) * resources.gpus]
        jobs.append(executor.submit(Worker(runs, sweep.metric, resources, gpus)))
    return jobs, 0


def _forget_failures(runs):
    for run in runs:  # each gets another try
        (run.folder / FAILURE).unlink(missing_ok=True)


def _submit_to_slurm(sweep, runs):
    """One job for each run that has none yet, as an array."""
    folder = sweep.output / "submitit" / "%j"
    if submitit.SlurmExecutor.affinity() <= 0:
        raise SweepError("cluster is slurm, and there is no srun here. On one machine: local.")
    _forget_failures(runs)
    known = {run: _known_job(run, folder) for run in runs}
    new = [run for run, job in known.items() if job is None]
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=100)
    executor.update_parameters(**_slurm_options(sweep), stderr_to_stdout=True)
    workers = [Worker([run], sweep.metric, sweep.resources) for run in new]
    submitted = executor.submit_array(workers) if new else []
    for run, job in zip(new, submitted, strict=True):
        note_config(run)  # that the job has, whatever the file says by the time it starts
        job.submitted = time.time()
        write_json(run.folder / JOB, {"job_id": job.job_id, "submitted": job.submitted})
    jobs = [*submitted, *(job for job in known.values() if job is not None)]
    return jobs, len(jobs) - len(submitted)


def _known_job(run, folder):
    """The run's job on the cluster, unless that has ended."""
    path = run.folder / JOB
    if not path.exists():
        return None
    content = read_record(path, job_id=str)
    job = submitit.SlurmJob(folder=folder, job_id=content["job_id"])
    job.submitted = content.get("submitted", 0)
    return None if _has_ended(job, force_check=True) else job


def _has_ended(job, force_check=False):
    if job.done(force_check=force_check):
        return True
    # A job that is over and forgotten; or one that the cluster has not noticed yet.
    is_unknown = isinstance(job, submitit.SlurmJob) and job.state == "UNKNOWN"
    return is_unknown and time.time() - job.submitted > _UNKNOWN_SECONDS


def _slurm_options(sweep):
    """As submitit takes them, of sbatch's names."""
    resources = sweep.resources
    options = {
        "job_name": folder_name(sweep.file.stem),
        **{key: getattr(resources, key) for key in ("partition", "account", "constraint", "nodes")},
        "mem": f"{resources.memory_gb:g}G" if resources.memory_gb else None,
        "time": round(60 * resources.hours),
        "gpus_per_node": resources.gpus or None,
        "ntasks_per_node": 1,  # train_net.py starts a process for each GPU
        "cpus_per_task": resources.cpus,
        "srun_args": [f"--cpus-per-task={resources.cpus}"],  # srun does not take it from sbatch
        "array_parallelism": resources.parallel,
    }
    return {key: value for key, value in options.items() if value is not None}

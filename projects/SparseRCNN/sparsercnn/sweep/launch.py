"""Hand a sweep to submitit, on this machine or on SLURM, and wait for it."""

import json
import shlex
import sys
import time

import submitit
import torch
from detectron2.modeling import build_model
from submitit.slurm.slurm import SlurmJob, _make_sbatch_string

from .progress import Progress, format_status
from .resources import SweepError, check_resources, gpu_ids
from .run_folder import (
    FAILURE,
    FINISHED,
    JOB,
    RUNNING,
    claimed_gpus,
    note_config,
    read_state,
    require_same_config,
    write_json,
)
from .worker import Worker, train_command

__all__ = ["dry_run", "launch"]

_POLL_SECONDS = 1.0
_END_SECONDS = 3.0  # that interrupted jobs may take to end by themselves ...
_CANCEL_SECONDS = 30.0  # ... and when they are cancelled
_UNKNOWN_SECONDS = 600.0  # after which a job that the cluster does not know is taken for gone


def dry_run(sweep):
    """
    Args:
        sweep (Sweep):

    Returns:
        str: for SLURM the batch script with its resources; then each run's command line.
    """
    check_resources(sweep)
    resources = sweep.resources
    unfinished = [run for run in sweep.runs if read_state(run).state != FINISHED]
    lines = [f"# {len(sweep.runs)} runs, {len(sweep.runs) - len(unfinished)} of them finished"]
    if resources.cluster == "slurm":
        lines += [_batch_script(sweep, len(unfinished)), ""]
    else:
        lines.append(f"# {resources.parallel} at a time on this machine, {_each(resources)}")
    for run in unfinished:
        lines += [f"# {run.name}", shlex.join(train_command(run, resources.gpus))]
    return "\n".join(lines)


def launch(sweep, wait=True):
    """Start, or go on with, all runs of a sweep that are neither finished nor at work.

    Args:
        sweep (Sweep):
        wait (bool): show the progress until all runs have ended.

    Returns:
        int: 0 if all runs are finished (or, without `wait`, submitted), 1 if not.

    Raises:
        SweepError: a variant's model cannot be built; a folder holds a run of another config;
            SLURM, or GPUs, are not there.
    """
    check_resources(sweep)
    _check_models(sweep)
    for run in sweep.runs:
        require_same_config(run)
    states = [read_state(run) for run in sweep.runs]
    todo = [
        r for r, s in zip(sweep.runs, states, strict=True) if s.state not in (FINISHED, RUNNING)
    ]
    running = [r for r, s in zip(sweep.runs, states, strict=True) if s.state == RUNNING]
    submit = _submit_to_slurm if sweep.resources.cluster == "slurm" else _submit_here
    jobs, num_known = submit(sweep, todo, running)
    if not wait:
        known = f", {num_known} were there already" if num_known else ""
        print(f"{len(jobs) - num_known} jobs submitted{known}. The runs are in {sweep.output}.")
        return 0
    try:
        with Progress(sweep) as progress:
            while not all(map(_has_ended, jobs)) or _any_running(sweep):
                progress.update()
                time.sleep(_POLL_SECONDS)
            progress.update()
    except KeyboardInterrupt:
        if sweep.resources.cluster == "slurm":
            print("\nThe jobs go on; the same command watches them.")
        else:
            _stop(jobs, sweep)
            print("\nInterrupted; the same command goes on from here.")
        return 1
    print(format_status(sweep))
    for error in filter(None, map(_error, jobs)):
        print(f"A job broke off:\n{error}", file=sys.stderr)
    return int(any(read_state(run).state != FINISHED for run in sweep.runs))


def _stop(jobs, sweep):
    """End jobs of this machine. What a terminal sends has reached them, too; a `kill` has not."""
    _wait(lambda: not all(job.done() for job in jobs), _END_SECONDS)
    for job in jobs:
        if not job.done():
            job.cancel()
    _wait(lambda: _any_running(sweep), _CANCEL_SECONDS)


def _wait(unfinished, seconds):
    deadline = time.monotonic() + seconds
    while unfinished() and time.monotonic() < deadline:
        time.sleep(0.1)


def _error(job):
    """What a job raised, a run's failure apart; None for one that ended, or was killed."""
    return job.exception() if job.paths.result_pickle.exists() else None


def _check_models(sweep):
    """Rather one message now than a failure of every run: widths that do not fit, and the like."""
    for run in sweep.runs[: len(sweep.variants)]:
        cfg = run.load_config().clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = "meta"  # without memory, in a moment
        try:
            with torch.device("meta"):
                build_model(cfg)
        except NotImplementedError:
            continue  # somebody's model that needs a real device
        except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise SweepError(f"{sweep.file}, variant '{run.variant.name}': {error}") from error


def _any_running(sweep):
    return any(read_state(run).state == RUNNING for run in sweep.runs)


def _each(resources):
    return f"each with {resources.gpus} GPUs and {resources.cpus} threads"


def _submit_here(sweep, runs, running):
    """As many workers as may run, each with GPUs of its own; all share the list of runs.

    Runs that are at work have their workers, from an earlier start.
    """
    resources = sweep.resources
    taken = {gpu for run in running for gpu in claimed_gpus(run)}
    free = [gpu for gpu in gpu_ids() if gpu not in taken] if resources.gpus else []
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
        executor.update_parameters(
            timeout_min=60 * (resources.hours + 1) * len(runs), gpus_per_node=resources.gpus
        )
        gpus = free[i * resources.gpus : (i + 1) * resources.gpus]
        jobs.append(executor.submit(Worker(runs, sweep.metric, resources, gpus)))
    return jobs, 0


def _forget_failures(runs):
    for run in runs:  # each gets another try
        (run.folder / FAILURE).unlink(missing_ok=True)


def _submit_to_slurm(sweep, runs, running):
    """One job for each run that has none yet, as an array."""
    folder = sweep.output / "submitit" / "%j"
    if submitit.SlurmExecutor.affinity() <= 0:
        raise SweepError("cluster is slurm, and there is no srun here. On one machine: local.")
    _forget_failures(runs)
    known = {run: _known_job(run, folder) for run in runs}
    new = [run for run, job in known.items() if job is None]
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=100)
    executor.update_parameters(**_slurm_parameters(sweep.resources, sweep.file.stem))
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
    content = json.loads(path.read_text())
    job = SlurmJob(folder=folder, job_id=content["job_id"])
    job.submitted = content.get("submitted", 0)
    return None if _has_ended(job, force_check=True) else job


def _has_ended(job, force_check=False):
    if job.done(force_check=force_check):
        return True
    # A job that is over and forgotten; or one that the cluster has not noticed yet.
    is_unknown = isinstance(job, SlurmJob) and job.state == "UNKNOWN"
    return is_unknown and time.time() - job.submitted > _UNKNOWN_SECONDS


def _slurm_parameters(resources, name):
    given = {
        "partition": resources.partition,
        "account": resources.account,
        "constraint": resources.constraint,
        "mem": f"{resources.memory_gb:g}G" if resources.memory_gb else None,
        "gpus_per_node": resources.gpus or None,
    }
    return {
        "job_name": name,
        "time": round(60 * resources.hours),
        "nodes": resources.nodes,
        "ntasks_per_node": 1,  # train_net.py starts a process for each GPU
        "cpus_per_task": resources.cpus,
        "srun_args": [f"--cpus-per-task={resources.cpus}"],  # srun does not take it from sbatch
        "array_parallelism": resources.parallel,
        "stderr_to_stdout": True,
        **{key: value for key, value in given.items() if value is not None},
    }


def _batch_script(sweep, num_runs):
    parameters = _slurm_parameters(sweep.resources, sweep.file.stem)
    folder = sweep.output / "submitit" / "%j"
    array = {"map_count": num_runs} if num_runs > 1 else {}
    return _make_sbatch_string("# (the worker)", folder, **parameters, **array)

"""The processes of a run: started here, or found started by torchrun or srun; joined; watched."""

import contextlib
import os
import signal
import sys
import time
import traceback
import warnings
from dataclasses import replace
from multiprocessing import connection

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from ..errors import ConfigError, ProcessError, UserError, message_for_user
from .devices import check_gpus_here
from .joining import join
from .launchers import Place, check_machines, find_place, num_restarts, resume_restarted

__all__ = ["check_processes", "run_processes"]

_GRACE = 5.0  # seconds after a failure, in which the other processes may end by themselves
_END = 10.0  # seconds from asking a process to end to killing it
_LONGEST_REPORT = 30_000  # characters; a pipe holds as many while nobody reads


def run_processes(function, args):
    """Call ``function(args)`` in each process of a run.

    The processes are those that torchrun or srun has started, of which this is one; otherwise they
    are started here, one for each of ``args.num_gpus`` or ``args.num_processes``, and watched: when
    one fails, the others are ended. A run that its launcher starts again is resumed.

    Args:
        function (callable): importable by its name.
        args (argparse.Namespace): from :func:`~sparsercnn.engine.arguments.argument_parser`.

    Raises:
        ConfigError: options that do not fit each other, the launcher or this machine.
        ProcessError: a process was killed, or did not come.
        UserError: what a process raised.
        SystemExit: with the status of a process that ended with one of its own.
    """
    if num_restarts() > 0:
        resume_restarted(args)
    place = _place_of_launcher(args)
    if place is not None:
        _call(function, args, place, _backend(args))
        return
    _check_arguments(args)
    number = args.num_processes or args.num_gpus or 1
    if number * args.num_machines > 1:
        check_gpus_here(args.num_gpus, is_alone=args.num_machines == 1)
        _spawn(function, args, number)
    else:
        function(args)


def check_processes(cfg):
    """Raise ConfigError if the processes that have been joined cannot train this config.

    Args:
        cfg (CfgNode): the whole config.
    """
    if comm.get_world_size() == 1:
        return
    device, backend = cfg.MODEL.DEVICE, dist.get_backend()
    if (backend == "nccl") != device.startswith("cuda"):
        remedy = "set MODEL.DEVICE cuda" if backend == "nccl" else "set MODEL.DEVICE cpu"
        raise ConfigError(
            f"MODEL.DEVICE is {device}, but the processes exchange by {backend}. For the CPU: "
            f"--num-gpus 0. Otherwise {remedy}."
        )


def _place_of_launcher(args):
    """The :class:`Place` from torchrun or srun; None: this program starts the processes."""
    if args.launcher == "none":
        return None
    # Who gives machines and their ranks by hand uses srun only to start one program on each.
    by_hand = args.num_machines > 1 and "TORCHELASTIC_RUN_ID" not in os.environ
    place = None if by_hand and args.launcher == "auto" else find_place(args.launcher)
    if place is not None and (args.num_processes or args.num_machines > 1):
        option = "--num-processes" if args.num_processes else "--num-machines"
        raise ConfigError(
            f"{place.world_size} processes have been started by a launcher, and {option} would "
            "start others. Leave it out, or use --launcher none."
        )
    return place


def _check_arguments(args):
    for option, value in (
        ("--num-gpus", args.num_gpus),
        ("--num-processes", args.num_processes),
        ("--join-timeout", args.join_timeout),
    ):
        if not 0 <= value < 1e6:
            raise ConfigError(f"{option} is {value}; it must be 0 or more.")
    if args.num_processes:
        if args.num_gpus > 1:
            raise ConfigError(
                f"--num-processes {args.num_processes} is for the CPU and --num-gpus "
                f"{args.num_gpus} starts a process for each GPU: give one of them."
            )
        args.num_gpus = 0
    check_machines(args.num_machines, args.machine_rank, args.dist_url)


def _backend(args):
    return "nccl" if args.num_gpus and torch.cuda.is_available() else "gloo"


def _spawn(function, args, number):
    """Start the processes of this machine, and wait for them."""
    store = None
    url = args.dist_url
    if url == "auto":
        # It listens here, so that the port is free for certain, and as long as this function runs.
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        url = f"tcp://127.0.0.1:{store.port}"
    place = Place(
        rank=args.machine_rank * number,
        world_size=args.num_machines * number,
        local_rank=0,
        machine=args.machine_rank,
        url=url,
        hosts_store=store is None and args.machine_rank == 0,
    )
    pipes = [mp.get_context("spawn").Pipe(duplex=False) for _ in range(number)]
    senders = [sender for _, sender in pipes]
    arguments = (function, args, place, _backend(args), senders)
    processes = mp.start_processes(
        _start, arguments, nprocs=number, join=False, start_method="spawn"
    ).processes
    _Watch(processes, [receiver for receiver, _ in pipes], place).wait()


def _start(local_rank, function, args, place, backend, senders):
    """What a process that was started here does. It tells an error by its sender."""
    place = replace(
        place,
        rank=place.rank + local_rank,
        local_rank=local_rank,
        hosts_store=place.hosts_store and local_rank == 0,
    )
    if backend == "gloo" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(len(os.sched_getaffinity(0)) // len(senders), 1))
    try:
        _call(function, args, place, backend)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        message = message_for_user(error)
        if message is None:
            senders[local_rank].send((False, traceback.format_exc()[-_LONGEST_REPORT:]))
            sys.exit(1)
        senders[local_rank].send((True, message[:_LONGEST_REPORT]))
        sys.exit(2)


class _Watch:
    """Waits for processes. When one fails, it ends the others and tells why."""

    def __init__(self, processes, receivers, place):
        """
        Args:
            processes (list): of :mod:`multiprocessing`, by local rank.
            receivers (list[Connection]): of the reports of :func:`_start`, by local rank.
            place (Place): of the first one.
        """
        self.processes = processes
        self.receivers = receivers
        self.place = place
        self.passed_on = None  # the signal that has been passed on to all

    def wait(self):
        ask = signal.SIGTERM
        try:
            with self._signals_passed_on():
                first = self._first_failure()
        except KeyboardInterrupt:
            ask = signal.SIGINT
            raise
        finally:
            self._end(ask)
        if first is not None:
            self._tell(first)
        statuses = [process.exitcode for process in self.processes if process.exitcode]
        if statuses:
            sys.exit(statuses[0])

    def _first_failure(self):
        """The local rank of the process that failed first; None when all have ended well.

        A status above 2 is an orderly end of all of them, such as after a signal.
        """
        running = {process.sentinel: i for i, process in enumerate(self.processes)}
        first, deadline = None, None
        while running:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return first
            ended = [running.pop(x) for x in connection.wait(list(running), left)]
            for i in ended:
                self.processes[i].join()
            failed = [i for i in ended if not self._ended_well(i)]
            if failed and first is None:
                first = min(failed, key=lambda i: self.processes[i].exitcode)  # killed ones before
                deadline = time.monotonic() + _GRACE
        return first

    def _ended_well(self, i):
        status = self.processes[i].exitcode
        return status == 0 or status > 2

    def _end(self, ask):
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, ask)
        deadline = time.monotonic() + _END
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0))
            if process.is_alive():
                process.kill()
                process.join()

    def _tell(self, i):
        status = self.processes[i].exitcode
        if self.passed_on is not None and status == -self.passed_on:
            sys.exit(128 + self.passed_on)
        rank, size = self.place.rank + i, self.place.world_size
        name = f"Rank {rank} of {size} (process {self.processes[i].pid})"
        if status < 0:
            what = signal.Signals(-status).name
            hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
            raise ProcessError(
                f"{name} was killed by {what}{hint}. The other processes of this machine were "
                "ended; --resume continues from the last checkpoint."
            )
        is_users, text = self.receivers[i].recv() if self.receivers[i].poll() else (False, "")
        if is_users:
            raise UserError(text)
        print(f"{text}error: {name} failed, and the others were ended.", file=sys.stderr)
        sys.exit(status)

    @contextlib.contextmanager
    def _signals_passed_on(self):
        """SLURM, `kill` and the like know this process only."""

        def pass_on(number, _):
            self.passed_on = number
            for process in self.processes:
                if process.is_alive():
                    os.kill(process.pid, number)

        numbers = (signal.SIGTERM, signal.SIGUSR1)
        before = {number: signal.signal(number, pass_on) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _call(function, args, place, backend):
    """Join the others and call ``function(args)``."""
    # Of detectron2 0.6, at each exchange of objects.
    warnings.filterwarnings("ignore", "TypedStorage is deprecated")
    try:
        join(place, backend, args)
        function(args)
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        reason = str(error).strip().splitlines()[0][:300]
        raise ProcessError(
            f"Rank {place.rank} of {place.world_size}: another process of the run has ended, or "
            f"does not answer ({reason}). Its own message, if it left one, says why; --resume "
            "continues from the last checkpoint."
        ) from error
    dist.destroy_process_group()


def _is_lost_connection(error):
    of_torch = getattr(dist, "DistError", ())
    return isinstance(error, of_torch) or "gloo/" in str(error) or "NCCL" in str(error)

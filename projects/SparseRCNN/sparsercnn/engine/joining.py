"""Processes of a run find each other: a store in which all register, and process groups."""

import datetime
import time
import uuid

import torch
import torch.distributed as dist
from detectron2.utils import comm

from ..errors import ConfigError, ProcessError
from .launchers import meeting_point, num_restarts, resume_restarted

__all__ = ["join", "meet"]

_ANSWER = datetime.timedelta(minutes=30)  # of all to an exchange, as in detectron2


def join(place, backend, args):
    """Join the other processes of a run, and tell PyTorch and detectron2 of them.

    Args:
        place (Place): of this process.
        backend (str): "nccl" or "gloo".
        args (argparse.Namespace): `num_gpus` is checked; the run is resumed if any of the
            processes has been started anew.

    Raises:
        ConfigError: there is no GPU for this process, or another number than `num_gpus` says.
        ProcessError: the others do not come.
    """
    if backend == "nccl":
        found = torch.cuda.device_count()
        if found > 1 and place.local_rank >= found:
            raise ConfigError(
                f"Process {place.local_rank} of this machine has no GPU: there are {found}. Start "
                f"{found} processes on each machine."
            )
        # With a GPU for each task, SLURM shows each process its own alone.
        torch.cuda.set_device(place.local_rank % found)
    if place.url == "env://":
        store = _new_part(next(dist.rendezvous("env://", timeout=_ANSWER))[0], place)
    else:
        store = meet(place, args.join_timeout)
        store.set_timeout(_ANSWER)
        store = dist.PrefixStore("run", store)
    sizes = {"rank": place.rank, "world_size": place.world_size}
    dist.init_process_group(backend, store=store, timeout=_ANSWER, **sizes)
    machines, restarted = zip(*comm.all_gather((place.machine, num_restarts() > 0)), strict=True)
    if any(restarted):
        resume_restarted(args)
    _group_by_machine(machines, place.machine)
    if args.num_gpus not in (0, 1, comm.get_local_size()):
        raise ConfigError(
            f"--num-gpus is {args.num_gpus}, and {comm.get_local_size()} processes have been "
            "started on this machine. Start one for each GPU, or leave --num-gpus out."
        )
    comm.synchronize()


def meet(place, seconds):
    """A store in which all processes of the run have come together.

    Raises:
        ProcessError: a rank comes twice or does not come, or another number of processes is
            expected elsewhere.
    """
    timeout = datetime.timedelta(seconds=max(seconds, 1))
    where = meeting_point(place.url)
    deadline = time.monotonic() + timeout.total_seconds()
    try:
        if isinstance(where, str):
            store = dist.FileStore(where, place.world_size)
            store.set_timeout(timeout)
        else:
            options = {"is_master": place.hosts_store, "wait_for_workers": False}
            store = dist.TCPStore(*where, timeout=timeout, **options)
        times = store.add(f"rank/{place.rank}", 1)
        size = int(store.compare_set("world_size", "", str(place.world_size)))
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ProcessError(
            f"Rank {place.rank} of {place.world_size} does not reach the others at {place.url} "
            f"within {timeout.total_seconds():g} seconds ({reason}). Check that machine 0 was "
            "started, that the address and port are its own and free, and --join-timeout."
        ) from error
    if size != place.world_size:
        raise ProcessError(
            f"Rank {place.rank} was told of {place.world_size} processes, and another one of "
            f"{size}. Give all machines the same --num-machines and --num-gpus."
        )
    if times > 1:
        raise ProcessError(
            f"Two processes have rank {place.rank} of {place.world_size} at {place.url}. Give each "
            "machine its own --machine-rank, and each run its own --dist-url."
        )
    while missing := [i for i in range(place.world_size) if not store.check([f"rank/{i}"])]:
        if time.monotonic() > deadline:
            raise ProcessError(
                f"Rank {', '.join(map(str, missing))} of {place.world_size} did not come to "
                f"{place.url} within {timeout.total_seconds():g} seconds. Start all machines, with "
                "different --machine-rank, or wait longer with --join-timeout."
            )
        time.sleep(0.05)
    return store


def _new_part(store, place):
    """The part of torchrun's store that the processes of this start alone have.

    torchrun keeps its store when it restarts processes, with the addresses of those that are gone.
    So rank 0 makes up a name, and gives it to each of the others until that has confirmed it.
    """
    own = uuid.uuid4().hex
    if place.rank > 0:
        store.set(f"greeting/{place.rank}", own)
        name = store.get(f"answer/{own}").decode()  # waits for it
        store.set(f"confirmed/{name}/{place.rank}", "")
        return dist.PrefixStore(name, store)
    deadline = time.monotonic() + _ANSWER.total_seconds()
    missing = list(range(1, place.world_size))
    while missing := [i for i in missing if not store.check([f"confirmed/{own}/{i}"])]:
        for rank in missing:
            if store.check([f"greeting/{rank}"]):
                store.set(f"answer/{store.get(f'greeting/{rank}').decode()}", own)
        if time.monotonic() > deadline:
            raise ProcessError(f"Rank {', '.join(map(str, missing))} of torchrun did not come.")
        time.sleep(0.05)
    return dist.PrefixStore(own, store)


def _group_by_machine(machines, machine):
    """Tell detectron2 which processes are on this machine, as its own launch function does.

    Args:
        machines (sequence[int]): number of the machine, by rank.
        machine (int): that of this process.
    """
    for number in sorted(set(machines)):
        group = dist.new_group([rank for rank, x in enumerate(machines) if x == number])
        if number == machine:
            comm._LOCAL_PROCESS_GROUP = group

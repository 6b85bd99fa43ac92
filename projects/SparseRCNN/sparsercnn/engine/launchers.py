"""The place of a process in a run of several, as torchrun, SLURM or the command line gives it."""

import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlparse

from ..errors import ConfigError

__all__ = [
    "LAUNCHERS",
    "Place",
    "check_machines",
    "find_place",
    "meeting_point",
    "num_restarts",
    "resume_restarted",
]

LAUNCHERS = ("auto", "torchrun", "slurm", "none")
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Number of times that a launcher has started the job again.
_RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


@dataclass(frozen=True)
class Place:
    """One process among those of a run.

    Attributes:
        rank: among all, from 0.
        world_size: number of all.
        local_rank: among those of its machine, from 0.
        machine: a number that the processes of one machine share, and no others.
        url: where all meet, ``tcp://HOST:PORT`` or ``file:///PATH``; "env://": torchrun's store.
        hosts_store: whether this process listens at the TCP port.
    """

    rank: int
    world_size: int
    local_rank: int
    machine: int
    url: str
    hosts_store: bool = False


def find_place(launcher="auto", environment=None):
    """The place that a launcher gives this process.

    Args:
        launcher (str): one of LAUNCHERS; "auto": torchrun or SLURM's srun, if it started this.
        environment (Mapping): None: that of the process.

    Returns:
        Place: None if no launcher started this process, or only this one.

    Raises:
        ConfigError: the launcher's variables are missing or contradict each other.
    """
    environment = os.environ if environment is None else environment
    place = None
    if launcher == "torchrun" or (launcher == "auto" and "TORCHELASTIC_RUN_ID" in environment):
        place = _torchrun_place(environment)
    elif launcher == "slurm" or (launcher == "auto" and "SLURM_STEP_NUM_TASKS" in environment):
        place = _slurm_place(environment)
    if place is None or place.world_size == 1:
        return None
    if not 0 <= place.rank < place.world_size or place.local_rank < 0:
        raise ConfigError(
            f"The launcher gave this process rank {place.rank} (on its machine "
            f"{place.local_rank}) of {place.world_size}; ranks are from 0 to "
            f"{place.world_size - 1}. Start it by torchrun or srun, or use --launcher none."
        )
    return place


def num_restarts(environment=None):
    """How often torchrun (``--max-restarts``) or SLURM (a job queued again) has started this job
    anew; if it has, its run is to be resumed."""
    environment = os.environ if environment is None else environment
    return max(_integer(environment, name, 0) for name in _RESTARTS)


def resume_restarted(args):
    """Have a run that its launcher starts again resumed.

    Args:
        args (argparse.Namespace): `resume` is set; `overwrite`, which the first start has done, is
            taken back.
    """
    if not args.resume:  # both on the command line contradict each other
        args.resume, args.overwrite = True, False


def check_machines(num_machines, machine_rank, url):
    """Check ``--num-machines``, ``--machine-rank`` and ``--dist-url``, without using them.

    Raises:
        ConfigError: one is out of range, or does not fit the others.
    """
    if num_machines < 1:
        raise ConfigError(f"--num-machines is {num_machines}; it must be 1 or more.")
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(
            f"--machine-rank is {machine_rank}; with --num-machines {num_machines} it must be from "
            f"0 to {num_machines - 1}, another one on each machine."
        )
    if num_machines > 1 or url != "auto":
        meeting_point(url)


def meeting_point(url):
    """What ``--dist-url`` names.

    Args:
        url (str): ``tcp://HOST:PORT``, ``file:///PATH``, or ``env://`` for MASTER_ADDR and
            MASTER_PORT.

    Returns:
        tuple[str, int] | str: host and port, or the path of a file.

    Raises:
        ConfigError: it is none of these, or the host has no address.
    """
    what = f"--dist-url {url}"
    if url == "env://":
        host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        url = f"tcp://{host}:{port}" if host and port else url
    try:
        parts = urlparse(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number
        parts, host, port = urlparse(""), None, None
    if parts.scheme == "file" and parts.path and not parts.netloc:
        return parts.path
    if parts.scheme != "tcp" or not host or not port:
        raise ConfigError(
            f"{what} is not a place to meet: give tcp://HOST:PORT, with the address of machine 0 "
            "and a free port there, the same on all machines."
        )
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{what}: the host {host} has no address here ({error}).") from error
    return host, port


def _torchrun_place(environment):
    missing = [name for name in _TORCHRUN if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"torchrun's {', '.join(missing)} is missing from the environment. Start this by "
            "torchrun, or use --launcher none."
        )
    return Place(
        rank=_integer(environment, "RANK"),
        world_size=_integer(environment, "WORLD_SIZE"),
        local_rank=_integer(environment, "LOCAL_RANK"),
        machine=_integer(environment, "GROUP_RANK", 0),
        url="env://",
    )


def _slurm_place(environment):
    """That of a task of srun; a batch script, and a shell in a job, have one task at most."""
    world_size = _integer(environment, "SLURM_STEP_NUM_TASKS", 1)
    if world_size == 1:
        return None
    rank = _integer(environment, "SLURM_PROCID")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    on_one = _integer(environment, "SLURM_STEP_NUM_NODES", 0) == 1
    host = environment.get("MASTER_ADDR") or ("127.0.0.1" if on_one else _first_host(nodes))
    # Jobs that share a node must not share a port.
    job = _integer(environment, "SLURM_JOB_ID", 0), _integer(environment, "SLURM_STEP_ID", 0)
    port = _integer(environment, "MASTER_PORT", 20000 + (job[0] * 31 + job[1]) % 20000)
    return Place(
        rank=rank,
        world_size=world_size,
        local_rank=_integer(environment, "SLURM_LOCALID"),
        machine=_integer(environment, "SLURM_NODEID"),
        url=f"tcp://{host}:{port}",
        hosts_store=rank == 0,
    )


def _first_host(nodes):
    """The first of SLURM's list: "a[03-05,9],b" begins with "a03"."""
    match = re.match(r"([^\[,\s]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    if not match:
        raise ConfigError(
            f"SLURM_STEP_NODELIST is '{nodes}', which names no machine to meet at. Set MASTER_ADDR "
            "to the first one, or use --launcher none."
        )
    return "".join(part or "" for part in match.groups())


def _integer(environment, name, default=None):
    value = environment.get(name, default)
    try:
        return int(value)
    except (TypeError, ValueError):
        given = "missing" if value is None else f"'{value}', not a number"
        raise ConfigError(
            f"{name} in the environment is {given}. Start this by torchrun or srun, or use "
            "--launcher none."
        ) from None

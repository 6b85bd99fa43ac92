"""Numbers of processes, machines and ranks that cannot be: one line, status 2, at once."""

from dataclasses import replace

import pytest
import torch.distributed as dist

from sparsercnn.cli import train
from sparsercnn.engine.joining import meet
from sparsercnn.engine.launchers import Place
from sparsercnn.errors import ProcessError

URL = "tcp://127.0.0.1:29400"
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
TORCHRUN |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29401"}

# Arguments, environment, what the line begins with.
CASES = [
    ("--num-gpus 2", {}, "--num-gpus 2 is too many: there are 0 GPUs"),
    ("--num-gpus -1", {}, "--num-gpus is -1; it must be 0 or more"),
    ("--num-processes -2", {}, "--num-processes is -2; it must be 0 or more"),
    ("--num-processes 2 --num-gpus 2", {}, "--num-processes 2 is for the CPU and --num-gpus 2"),
    (f"--num-machines 2 --dist-url {URL}", {}, "--num-gpus 1 is too many: there are 0 GPUs"),
    ("--num-machines 2 --num-gpus 0", {}, "--dist-url auto is not a place to meet"),
    ("--num-machines 2 --num-gpus 0 --dist-url x", {}, "--dist-url x is not a place to meet"),
    ("--num-machines 2 --num-gpus 0 --dist-url tcp://a:b", {}, "--dist-url tcp://a:b is not a"),
    ("--num-machines 0 --num-gpus 0", {}, "--num-machines is 0; it must be 1 or more"),
    (f"--num-machines 2 --machine-rank 2 --dist-url {URL}", {}, "--machine-rank is 2; with"),
    (f"--num-machines 2 --machine-rank -1 --dist-url {URL}", {}, "--machine-rank is -1; with"),
    ("--join-timeout nan --num-gpus 0", {}, "--join-timeout is nan; it must be 0 or more"),
    ("--launcher torchrun", {}, "torchrun's RANK, WORLD_SIZE, LOCAL_RANK, "),
    ("", {**TORCHRUN, "RANK": "2"}, "The launcher gave this process rank 2 "),
    ("", {**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE in the environment is 'two', not a number"),
    ("--num-processes 2", TORCHRUN, "2 processes have been started by a launcher, and --num-proc"),
    ("--num-machines 2", TORCHRUN, "2 processes have been started by a launcher, and --num-mach"),
    ("--launcher slurm", {"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID in the environment is miss"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "environment", "line"), CASES)
def test_it_is_told_in_one_line(arguments, environment, line, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert train.main(["--config-file", "none.yaml", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}") and error.count("\n") == 1


def test_machines_that_do_not_fit_each_other_are_told():
    """One that waits in vain, two with one rank, another number of machines, a wrong address."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    url = f"tcp://127.0.0.1:{store.port}"
    place = Place(rank=0, world_size=2, local_rank=0, machine=0, url=url)
    with pytest.raises(ProcessError, match="Rank 1 of 2 did not come to tcp.* within 1 seconds"):
        meet(place, 1)
    with pytest.raises(ProcessError, match="Two processes have rank 0 of 2"):
        meet(place, 1)
    with pytest.raises(ProcessError, match="Rank 2 was told of 3 processes, and another one of 2"):
        meet(replace(place, rank=2, world_size=3), 1)
    with pytest.raises(ProcessError, match="Rank 1 of 2 does not reach the others at tcp.*:9"):
        meet(replace(place, rank=1, url="tcp://127.0.0.1:9"), 1)
    assert meet(replace(place, rank=1), 1).check(["rank/0", "rank/1"])

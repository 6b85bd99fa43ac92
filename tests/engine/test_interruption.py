"""A signal to any process, or to the one that has started them, ends all after one iteration."""

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.utils import clip_grad_norm_

from sparsercnn.engine.arguments import argument_parser
from sparsercnn.engine.interruption import (
    EXIT_STATUS,
    Stopped,
    at_once,
    deferred,
    requested,
    take_signals,
)
from sparsercnn.engine.processes import run_processes
from sparsercnn.engine.train_step import TrainStep


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_waits_where_it_must_and_only_there(number):
    before = signal.getsignal(number)
    with take_signals():
        with deferred():
            send(number)
            assert requested()
            with pytest.raises(Stopped), at_once():
                raise AssertionError("it was not stopped")
        with pytest.raises(Stopped) as stopped:
            send(number)
        assert stopped.value.code == EXIT_STATUS == 75
    assert signal.getsignal(number) is before
    with take_signals():
        assert not requested()


def test_a_signal_ends_at_once_what_can_be_done_again():
    with take_signals(), deferred():
        with pytest.raises(Stopped), at_once():
            send()
        assert requested()


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, batch):
        return {"loss": self.layer(batch[0]["value"]).square().mean()}


def _rank(args):
    folder, signalled = Path(args.opts[0]), args.opts[1]
    rank = comm.get_rank()
    model = nn.parallel.DistributedDataParallel(Mean())
    step = TrainStep(
        model,
        itertools.repeat([{"value": torch.ones(2)}]),
        torch.optim.SGD(model.parameters(), lr=0.1),
        clip_gradients=partial(clip_grad_norm_, max_norm=math.inf),
    )
    with EventStorage(), take_signals(), deferred():
        for step.iter in itertools.count():
            if rank == 1 and signalled == "rank" and step.iter == 5:
                send()
            step.run_step()
            (folder / f"{rank}.started").touch()
            if step.stop_requested:
                break
    (folder / f"{rank}.txt").write_text(str(step.iter))
    torch.distributed.barrier()
    os._exit(EXIT_STATUS)  # as Stopped does; gloo's threads at times abort a process that ends


@pytest.mark.parametrize("signalled", ["rank", "parent"])
def test_all_processes_stop_after_the_same_iteration(tmp_path, signalled):
    # By its path: under a module's name, a new process may find another package `tests`.
    command = [sys.executable, __file__, tmp_path, signalled]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=environment) as parent:
        if signalled == "parent":
            while not (tmp_path / "1.started").exists():
                assert parent.poll() is None
                time.sleep(0.05)
            parent.send_signal(signal.SIGUSR1)
        assert parent.wait(timeout=120) == EXIT_STATUS
    iterations = [int((tmp_path / f"{rank}.txt").read_text()) for rank in range(2)]
    assert iterations[0] == iterations[1]
    if signalled == "rank":
        assert iterations == [5, 5]


if __name__ == "__main__":
    run_processes(_rank, argument_parser().parse_args(["--num-processes", "2", *sys.argv[1:]]))

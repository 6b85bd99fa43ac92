"""A run that is interrupted at any moment ends as one left alone: weights, metrics, best model.

The moments are all calls of the functions through which a run changes its folder, computes or
evaluates. A process of its own is ended at each of them, and another one resumes the run.
"""

import errno
import itertools
import json
import multiprocessing
import os
import signal
import sys
import traceback

import pytest
import torch
import torch.utils.tensorboard  # here, and not anew in each of the processes
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import JSONWriter
from torch import nn

from sparsercnn import add_sparsercnn_config
from sparsercnn.engine.interruption import EXIT_STATUS, take_signals
from sparsercnn.engine.metrics_file import read_metrics
from sparsercnn.engine.run_folder import open_run_folder
from sparsercnn.engine.trainer import Trainer

MetadataCatalog.get("interrupted_train").set(thing_classes=["bolt", "nut"])
TIMES = {"time", "data_time", "eta_seconds"}
ITERATIONS = 12
FINAL = "model_final.pth"
# Forks of a process that has imported this file and done nothing else: autograd's threads, which
# other tests have started in this one, do not survive a fork.
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload([__name__])


@META_ARCH_REGISTRY.register()
class InterruptedModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.constant_(self.layer.bias, 0.1)

    def forward(self, batch):
        noise = torch.rand(1)
        return {"loss_a": (self.layer(batch[0]["value"]) + noise).square().mean()}


class Loader:
    """Another sample for each iteration."""

    def __init__(self):
        self.start = 0

    def start_at(self, num_batches):
        self.start = num_batches

    def __iter__(self):
        values = (torch.tensor([i % 5 / 4, i % 3 - 1.0]) for i in itertools.count(self.start))
        return ([{"value": value, "file_name": "a.jpg"}] for value in values)


class InterruptedTrainer(Trainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return Loader()

    def run_step(self):
        super().run_step()

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        cls.look()
        with torch.no_grad():  # it rises and falls
            value = torch.sin(40 * model.layer.weight.sum()).item()
        return {"bbox": {"AP": value, "AP50": -value}}

    @staticmethod
    def look():
        """What takes the time in an evaluation."""


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "InterruptedModel"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TRAIN = ("interrupted_train",)
    cfg.DATASETS.TEST = ("interrupted_val",)
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.MAX_ITER = ITERATIONS
    cfg.SOLVER.STEPS = (8,)
    cfg.SOLVER.WARMUP_ITERS = 3
    cfg.SOLVER.CHECKPOINT_PERIOD = 4
    cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP = 2
    cfg.TEST.EVAL_PERIOD = 5  # never with a checkpoint of its own
    cfg.SEED = 1
    return cfg


def train(cfg, folder, at_moment=None, disturb=None):
    """A process that trains as train_net.py does; gives its exit status, and writes the number of
    its moments to a file beside the folder."""
    process = CLEAN.Process(target=train_here, args=(cfg, folder, at_moment, disturb))
    process.start()
    process.join()
    return process.exitcode


def train_here(cfg, folder, at_moment, disturb):
    status = 99
    try:
        os.close(2)
        os.open(f"{folder}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        watch(at_moment, disturb, f"{folder}.moments")
        cfg.OUTPUT_DIR = str(folder)
        with take_signals():
            open_run_folder(cfg.OUTPUT_DIR, resume=True)
            torch.manual_seed(cfg.SEED)
            trainer = InterruptedTrainer(cfg)
            trainer.resume_or_load(resume=True)
            trainer.train()
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def watch(at_moment, disturb, notes):
    """Disturb the process at a moment, before or after what happens then."""
    moments = itertools.count()

    def watched(owner, name, function):
        def call(*args, **kwargs):
            for before in (True, False):
                moment = next(moments)
                with open(notes, "w") as file:
                    file.write(str(moment))
                if moment == at_moment:
                    disturb()
                if before:
                    result = function(*args, **kwargs)
            return result

        setattr(owner, name, staticmethod(call) if isinstance(owner, type) else call)

    watched(os, "replace", os.replace)
    watched(os, "remove", os.remove)
    watched(torch, "save", torch.save)
    watched(InterruptedTrainer, "look", InterruptedTrainer.look)
    step, write = InterruptedTrainer.run_step, JSONWriter.write
    watched(InterruptedTrainer, "_step", step)
    InterruptedTrainer.run_step = lambda self: InterruptedTrainer._step(self)
    watched(JSONWriter, "_write", write)
    JSONWriter.write = lambda self: JSONWriter._write(self)


def outcome(folder):
    """What a run leaves, without its times."""
    found = {"rows": [], "files": sorted(x.name for x in folder.glob("*.pth"))}
    for row in read_metrics(folder):
        found["rows"].append({k: v for k, v in row.items() if k not in TIMES})
    found["lines"] = len((folder / "metrics.json").read_text().splitlines())
    found["best"] = json.loads((folder / "model_best.json").read_text())
    found["last"] = (folder / "last_checkpoint").read_text()
    for name in ("model_best", "model_final"):
        model = torch.load(folder / f"{name}.pth", weights_only=True)["model"]
        found[name] = {k: v.tolist() for k, v in model.items()}
    return found


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def warn():
    os.kill(os.getpid(), signal.SIGUSR1)


def interrupt():
    raise KeyboardInterrupt


def fill_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


DISTURBANCES = [kill, terminate, warn, interrupt, fill_disk]


def check_moments(cfg, tmp_path, disturb, choose):
    """Disturb a run at each of the moments that `choose` takes of all, and resume it."""
    assert train(cfg, tmp_path / "alone") == 0
    expected = outcome(tmp_path / "alone")
    assert [row["iteration"] for row in expected["rows"]] == [4, 9, 11, 12]
    assert expected["files"] == ["model_0000007.pth", "model_0000011.pth", "model_best.pth", FINAL]
    assert 0 < expected["best"]["iteration"] < ITERATIONS - 1  # so that it can be wrong
    statuses = set()
    for moment in choose(range(int((tmp_path / "alone.moments").read_text()) + 1)):
        folder = tmp_path / f"at_{moment}"
        statuses.add(train(cfg, folder, moment, disturb))
        assert train(cfg, folder) == 0, folder.with_suffix(".txt").read_text()
        assert outcome(folder) == expected, f"moment {moment}"
        leftovers = [x for x in os.listdir(folder) if x.endswith(".tmp") or "latest" in x]
        assert leftovers == [], f"moment {moment}"
    if disturb is kill:
        assert statuses == {-signal.SIGKILL}
    elif disturb in (terminate, warn):
        assert statuses <= {EXIT_STATUS, 0} and EXIT_STATUS in statuses


@pytest.mark.parametrize("disturb", DISTURBANCES)
def test_a_run_interrupted_at_some_moments_ends_as_one_left_alone(cfg, tmp_path, disturb):
    start = DISTURBANCES.index(disturb)
    check_moments(cfg, tmp_path, disturb, lambda moments: moments[start::12])


@pytest.mark.slow
@pytest.mark.parametrize("disturb", DISTURBANCES)
def test_a_run_interrupted_at_any_moment_ends_as_one_left_alone(cfg, tmp_path, disturb):
    check_moments(cfg, tmp_path, disturb, lambda moments: moments)


def test_a_run_interrupted_again_and_again_ends_as_one_left_alone(cfg, tmp_path):
    assert train(cfg, tmp_path / "alone") == 0
    folder = tmp_path / "again"
    for attempt, disturb in enumerate([kill, terminate, kill, fill_disk, interrupt]):
        assert train(cfg, folder, 11 + 3 * attempt, disturb) != 0
    assert train(cfg, folder) == 0
    assert outcome(folder) == outcome(tmp_path / "alone")


def test_a_signal_ends_the_run_after_its_iteration_with_a_checkpoint(cfg, tmp_path):
    cfg.TEST.EVAL_PERIOD = 0
    folder = tmp_path / "run"
    # Each iteration has two moments.
    assert train(cfg, folder, 7, terminate) == EXIT_STATUS
    assert (folder / "last_checkpoint").read_text() == "model_latest.pth"
    content = torch.load(folder / "model_latest.pth", weights_only=True)
    assert content["iteration"] == content["trainer"]["iteration"] == 4


@pytest.mark.parametrize("disturb", [kill, fill_disk])
def test_a_run_out_of_patience_interrupted_at_its_end_ends_as_one_left_alone(
    cfg, tmp_path, disturb
):
    cfg.SOLVER.PATIENCE = 1
    alone = tmp_path / "alone"
    assert train(cfg, alone) == 0
    expected = outcome(alone)
    assert expected["rows"][-1]["iteration"] < ITERATIONS - 1
    last = int((tmp_path / "alone.moments").read_text())
    for moment in range(last - 15, last + 1):
        folder = tmp_path / f"at_{moment}"
        train(cfg, folder, moment, disturb)
        assert train(cfg, folder) == 0, folder.with_suffix(".txt").read_text()
        assert outcome(folder) == expected, f"moment {moment}"

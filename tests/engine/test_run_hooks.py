"""When checkpoints are written, which are kept, and what a full disk leaves."""

import errno
import os
import types

import pytest
import torch
from torch import nn

from sparsercnn.engine.checkpoint import SafeCheckpointer
from sparsercnn.engine.run_hooks import Checkpoints
from sparsercnn.errors import CheckpointError


@pytest.fixture
def run(tmp_path):
    def run(max_iter, start=0, seconds_each=0, clock=None, **options):
        """Names of the checkpoints after each iteration."""
        hook = Checkpoints(SafeCheckpointer(nn.Linear(2, 2), str(tmp_path)), **options)
        hook.trainer = types.SimpleNamespace(iter=start, max_iter=max_iter)
        hook.before_train()
        seen = []
        for hook.trainer.iter in range(start, max_iter):
            if clock:
                clock.now += seconds_each
            hook.after_step()
            seen.append(sorted(path.name[6:-4] for path in tmp_path.glob("*.pth")))
        return seen

    return run


def test_the_newest_numbered_ones_are_kept_also_over_a_resume(run, tmp_path):
    assert run(5, period=2, max_to_keep=2)[-1] == ["0000001", "0000003", "final"]
    # Those of a run that was set back by hand to iteration 4 are not counted, nor is the best.
    for name in ("0000099", "best"):
        (tmp_path / f"model_{name}.pth").touch()
    names = run(8, start=5, period=2, max_to_keep=2)[-1]
    assert names == ["0000005", "0000007", "0000099", "best", "final"]


def test_all_are_kept_by_default(run):
    assert run(6, period=2)[-1] == ["0000001", "0000003", "0000005", "final"]


def test_there_is_a_checkpoint_before_each_evaluation(run):
    seen = run(6, period=4, eval_period=2)
    # None beside the periodic one, and none when the run is over.
    assert seen == [[], ["latest"], ["latest"], *[["0000003", "latest"]] * 2, ["0000003", "final"]]


def test_minutes_count_from_the_last_checkpoint(run, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr("sparsercnn.engine.run_hooks.time.monotonic", lambda: clock.now)
    saved = []
    save = SafeCheckpointer.save
    monkeypatch.setattr(
        SafeCheckpointer,
        "save",
        lambda self, name, **k: saved.append(name) or save(self, name, **k),
    )
    run(12, seconds_each=40, clock=clock, period=5, minutes=2)
    names = ["latest", "0000004", "latest", "0000009", "final"]
    assert saved == [f"model_{name}" for name in names]


def test_a_full_disk_leaves_the_older_ones_and_says_what_is_needed(tmp_path, monkeypatch):
    checkpointer = SafeCheckpointer(nn.Linear(512, 1024), str(tmp_path))
    checkpointer.save("model_0000001")
    before = (tmp_path / "model_0000001.pth").read_bytes()

    class Full:
        """A file on a disk with 100,000 bytes left."""

        def __init__(self, file):
            self.file, self.left = file, 100_000

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, Full(file)))
    with pytest.raises(CheckpointError) as error:
        checkpointer.save("model_0000003")
    message = str(error.value)
    assert f"{tmp_path}/model_0000003.pth cannot be written: No space left on device" in message
    assert "needs about 2.0 MiB" in message and "MiB are free on its disk" in message
    assert "model_0000001.pth is whole: --resume continues" in message
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]
    assert (tmp_path / "model_0000001.pth").read_bytes() == before
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000001.pth")

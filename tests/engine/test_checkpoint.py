"""Checkpoints survive interruptions, hold class names, and run nobody's code."""

import argparse
import copy
import os
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.checkpoint import PeriodicCheckpointer
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import LRScheduler
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import nn

from sparsercnn.engine.checkpoint import SafeCheckpointer, load_for_inference
from sparsercnn.errors import CheckpointError


def small_model(num_classes=3):
    model = nn.Sequential()
    model.add_module("trunk", nn.Linear(4, 5))
    model.add_module("class_logits", nn.Linear(5, num_classes))
    return model


def write_pickle(path, data, protocol=2):
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    return str(path)


def assert_same_weights(actual, expected):
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(actual.state_dict()[name], value, rtol=0, atol=0)


# Writing.


def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model = small_model()
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("first")
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()
    checkpointer.tag_last_checkpoint("first.pth")

    def killed(data, file):
        file.write(b"half a check")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "first.pth")
    assert sorted(os.listdir(tmp_path)) == ["first.pth", "last_checkpoint", "model.pth"]


def test_what_a_killed_run_left_is_no_checkpoint(tmp_path):
    (tmp_path / f"model.pth.{'0' * 32}.tmp").write_bytes(b"half a checkpoint")
    checkpointer = SafeCheckpointer(small_model(), str(tmp_path))
    assert checkpointer.get_all_checkpoint_files() == [] and not checkpointer.has_checkpoint()


def test_only_the_writing_process_writes(tmp_path):
    SafeCheckpointer(small_model(), str(tmp_path), save_to_disk=False).save("model")
    SafeCheckpointer(small_model(), "").save("model")
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_kept_beside_does_not_become_the_one_to_resume(tmp_path):
    checkpointer = SafeCheckpointer(small_model(), str(tmp_path))
    checkpointer.save("model_0000009")
    checkpointer.save("model_best", tag_last=False)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000009.pth")


def test_periodic_checkpointer_keeps_the_newest(tmp_path):
    checkpointer = SafeCheckpointer(small_model(), str(tmp_path))
    periodic = PeriodicCheckpointer(checkpointer, 2, max_iter=6, max_to_keep=1)
    for iteration in range(6):
        periodic.step(iteration)
    assert sorted(x for x in os.listdir(tmp_path)) == [
        "last_checkpoint",
        "model_0000005.pth",
        "model_final.pth",
    ]


def test_what_is_saved_is_plain(tmp_path):
    class Hook:
        def state_dict(self):
            return {"best": np.float64(41.5), "seen": Counter(a=2), 3: (np.int32(7), [np.True_])}

    checkpointer = SafeCheckpointer(small_model(), str(tmp_path), hook=Hook())
    checkpointer.save("model", iteration=np.int64(12), shape=torch.Size([1, 2]))
    data = torch.load(tmp_path / "model.pth", weights_only=True)
    assert data["hook"] == {"best": 41.5, "seen": {"a": 2}, 3: (7, [True])}
    assert type(data["hook"]["best"]) is float and type(data["iteration"]) is int
    assert data["shape"] == (1, 2)


def test_what_will_not_load_again_is_said_when_it_is_saved(tmp_path, caplog):
    checkpointer = SafeCheckpointer(small_model(), str(tmp_path))
    checkpointer.save("model", extra={"args": [argparse.Namespace(a=1)]})
    assert "extra.args.0 (argparse.Namespace)" in caplog.text
    with pytest.raises(CheckpointError, match="Namespace"):
        SafeCheckpointer(small_model()).load(str(tmp_path / "model.pth"))


# Reading back what a training run wrote.


def make_trainer(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = WarmupParamScheduler(
        MultiStepParamScheduler([1, 0.1], milestones=[3], num_updates=8), 0.1, 0.25
    )
    inputs = [torch.arange(4.0) * i for i in range(1, 9)]

    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return {"loss": self.inner(x).square().sum()}

    trainer = SimpleTrainer(Summed(), inputs, optimizer)
    trainer.register_hooks([LRScheduler(optimizer, LRMultiplier(optimizer, schedule, 8))])
    return trainer


def test_training_continues_where_it_was_saved(tmp_path):
    torch.manual_seed(0)
    model = small_model()
    other = copy.deepcopy(model)
    trainer = make_trainer(model)
    trainer.train(0, 5)
    SafeCheckpointer(model, str(tmp_path), trainer=trainer).save("model", iteration=4)

    with torch.no_grad():
        other.trunk.weight.zero_()
    resumed = make_trainer(other)
    rest = SafeCheckpointer(other, str(tmp_path), trainer=resumed).resume_or_load("", resume=True)
    assert rest["iteration"] == 4 and resumed.iter == trainer.iter
    assert_same_weights(other, model)
    states = resumed.optimizer.state.values(), trainer.optimizer.state.values()
    for ours, theirs in zip(*states, strict=True):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)
    rates = [group["lr"] for group in resumed.optimizer.param_groups]
    assert rates == [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates[0] == pytest.approx(0.01)  # after the milestone


def test_a_scaler_and_a_scheduler_of_torch_load_safely(tmp_path):
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3}
    SafeCheckpointer(model, str(tmp_path), scheduler=scheduler).save("model", grad_scaler=scaler)
    rest = SafeCheckpointer(small_model()).load(str(tmp_path / "model.pth"))
    assert rest["grad_scaler"] == scaler
    assert rest["scheduler"]["milestones"] == {2: 1, 5: 1}


def test_numpy_arrays_of_others_load(tmp_path):
    if not hasattr(torch.serialization, "safe_globals"):
        pytest.skip("this torch cannot be told to let numpy pass")
    path = str(tmp_path / "model.pth")
    model = small_model()
    torch.save({"model": model.state_dict(), "ap": np.float32(2), "x": np.arange(3)}, path)
    rest = SafeCheckpointer(small_model()).load(path)
    assert rest["ap"] == 2 and rest["x"].tolist() == [0, 1, 2]


def test_a_bare_state_dict_loads(tmp_path):
    model, other = small_model(), small_model()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    SafeCheckpointer(other).load(str(tmp_path / "weights.pth"))
    assert_same_weights(other, model)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_loaded_model_does_not_depend_on_the_file(tmp_path, new_format):
    path = tmp_path / "model.pth"
    model, other = small_model(), small_model()
    torch.save({"model": model.state_dict()}, path, _use_new_zipfile_serialization=new_format)
    load_for_inference(other, str(path))
    path.write_bytes(b"")  # a mapped file that shrinks kills who reads it
    assert_same_weights(other, model)


# Files that are missing, broken or of another model.


@pytest.mark.parametrize("keep", [0, 10, 0.5])
@pytest.mark.parametrize("name", ["model_final.pth", "model_final.pkl"])
def test_a_truncated_file_is_named_and_another_offered(tmp_path, name, keep):
    model = small_model()
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000099")
    path = tmp_path / name
    if name.endswith(".pkl"):
        write_pickle(path, {"trunk.bias": np.zeros(5)})
    else:
        checkpointer.save("model_final")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(CheckpointError, match=r"damaged.*model_0000099.pth") as error:
        checkpointer.load(str(path))
    assert str(path) in str(error.value)
    assert str(tmp_path / "last_checkpoint") in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"nowhere.pth.*MODEL.WEIGHTS"):
        SafeCheckpointer(small_model()).load(path)


def test_resuming_from_a_file_that_is_gone_offers_another(tmp_path):
    checkpointer = SafeCheckpointer(small_model(), str(tmp_path))
    checkpointer.save("model_0000001")
    checkpointer.tag_last_checkpoint("model_0000003.pth")
    with pytest.raises(CheckpointError, match=r"model_0000003.pth.*model_0000001.pth"):
        checkpointer.resume_or_load("", resume=True)


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        SafeCheckpointer(small_model()).load(str(tmp_path / "list.pth"))


def test_inference_gets_the_metadata(tmp_path):
    metadata = {"dataset": "farm", "thing_classes": ["cow", "hen"]}
    SafeCheckpointer(small_model(), str(tmp_path), metadata=metadata).save("model")
    assert load_for_inference(small_model(), str(tmp_path / "model.pth")) == metadata
    SafeCheckpointer(small_model(), str(tmp_path)).save("none")
    assert load_for_inference(small_model(), str(tmp_path / "none.pth")) == {}


def test_inference_refuses_weights_of_another_number_of_classes(tmp_path):
    SafeCheckpointer(small_model(80), str(tmp_path)).save("model")
    with pytest.raises(CheckpointError) as error:
        load_for_inference(small_model(3), str(tmp_path / "model.pth"))
    message = str(error.value)
    assert "class_logits.weight is (80, 5) in the file and (3, 5) in the model" in message
    assert "MODEL.SparseRCNN.NUM_CLASSES" in message
    assert "lacks" not in message


def test_inference_refuses_a_part_of_the_weights(tmp_path):
    torch.save({"model": {"trunk.weight": torch.zeros(5, 4)}}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"lacks .*class_logits.weight") as error:
        load_for_inference(small_model(), str(tmp_path / "part.pth"))
    assert "trunk.bias" in str(error.value)


def test_a_shared_parameter_is_there_under_either_name(tmp_path):
    model = small_model()
    model.add_module("again", model.class_logits)
    torch.save({"model": small_model().state_dict()}, tmp_path / "model.pth")
    assert load_for_inference(model, str(tmp_path / "model.pth")) == {}


def test_inference_without_weights_is_refused():
    with pytest.raises(CheckpointError, match=r"MODEL\.WEIGHTS"):
        load_for_inference(small_model(), "")

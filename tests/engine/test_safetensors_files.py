"""Weights in the format of safetensors: ours, and those of others."""

import sys

import pytest
import torch
from torch import nn

from sparsercnn.cli import convert
from sparsercnn.engine.checkpoint import SafeCheckpointer, load_for_inference
from sparsercnn.engine.checkpoint_files import describe_run, read_metadata
from sparsercnn.engine.setup import load_model_config
from sparsercnn.errors import CheckpointError


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model.safetensors.*\[safetensors\]"):
        load_for_inference(nn.Linear(2, 2), str(path))


@pytest.fixture
def safetensors():
    return pytest.importorskip("safetensors.torch")


def test_a_checkpoint_becomes_a_file_that_needs_no_config(safetensors, tiny_cfg, tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    SafeCheckpointer(model, str(tmp_path), metadata=describe_run(tiny_cfg)).save("model")
    source, target = str(tmp_path / "model.pth"), str(tmp_path / "model.safetensors")
    assert convert.main(["--from", "sparsercnn", source, target]) == 0
    assert set(safetensors.load_file(target)) == {"weight", "bias"}  # as others read it
    assert load_for_inference(other, target) == read_metadata(source) == read_metadata(target)
    assert torch.equal(other.weight, model.weight) and torch.equal(other.bias, model.bias)
    opts = ["MODEL.WEIGHTS", target]
    assert load_model_config("", opts, register=False).MODEL.SparseRCNN.NUM_PROPOSALS == 6
    # And back.
    back = str(tmp_path / "back.pth")
    assert convert.main(["--from", "sparsercnn", target, back]) == 0
    assert read_metadata(back) == read_metadata(source)


def test_files_of_others_are_read(safetensors, tmp_path, capsys):
    path = str(tmp_path / "timm.safetensors")
    safetensors.save_file({"conv1.weight": torch.ones(2, 3)}, path)
    assert convert.main(["--from", "timm", path, str(tmp_path / "ours.pth")]) == 0
    assert read_metadata(path) == {}


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_damaged_file_is_named(safetensors, tmp_path, keep):
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_for_inference(nn.Linear(2, 2), str(path))


def test_weights_are_checked_as_in_other_files(safetensors, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"weight": torch.full((2, 2), torch.nan), "bias": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="infinite or NaN: weight"):
        load_for_inference(nn.Linear(2, 2), str(path))

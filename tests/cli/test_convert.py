import pickle

import pytest
import torch

from sparsercnn.cli import convert


@pytest.fixture
def checkpoint(tmp_path):
    """As mmdetection saves one while it trains."""
    path = tmp_path / "epoch_12.pth"
    weights = {"backbone.conv1.weight": torch.randn(2, 3, 1, 1), "neck.x.bias": torch.zeros(5)}
    meta = {"epoch": 12, "CLASSES": ("person", "car")}
    torch.save({"meta": meta, "state_dict": weights, "optimizer": {"state": {}}}, path)
    return path


def test_converts_and_says_what_the_config_needs(checkpoint, tmp_path, capsys):
    target = tmp_path / "ours.pth"
    arguments = ["--from", "mmdetection", str(checkpoint), str(target), "--only", "backbone."]
    assert convert.main(arguments) == 0
    weights = torch.load(checkpoint)["state_dict"]
    found = torch.load(target)
    assert list(found) == ["model"]
    assert list(found["model"]) == ["backbone.bottom_up.stem.conv1.weight"]
    assert torch.equal(*found["model"].values(), weights["backbone.conv1.weight"])
    output = capsys.readouterr().out
    assert "1 weights" in output and "left out: 1 (not selected)" in output
    assert 'INPUT.FORMAT "RGB"' in output and "STRIDE_IN_1X1 False" in output

    back = tmp_path / "theirs.pth"
    assert convert.main(["--from", "mmdetection", "--reverse", str(target), str(back)]) == 0
    assert list(torch.load(back)["state_dict"]) == ["backbone.conv1.weight"]


def test_writes_nothing_when_a_weight_is_not_covered(checkpoint, tmp_path, capsys):
    target = tmp_path / "ours.pth"
    assert convert.main(["--from", "mmdetection", str(checkpoint), str(target)]) == 2
    error = capsys.readouterr().err
    assert str(checkpoint) in error and "neck.x.bias (5,)" in error
    assert not target.exists()


def test_pickles_of_arrays_are_read_and_others_refused(tmp_path, capsys):
    source, target = tmp_path / "x.pkl", tmp_path / "y.pth"
    weights = {"conv1.weight": torch.ones(2, 3).numpy(), "fc.bias": torch.ones(2).numpy()}
    source.write_bytes(pickle.dumps({"model": weights, "__author__": "me"}))
    assert convert.main(["--from", "torchvision", str(source), str(target)]) == 0
    assert torch.equal(*torch.load(target)["model"].values(), torch.ones(2, 3))

    source.write_bytes(pickle.dumps({"model": convert.main}))
    assert convert.main(["--from", "torchvision", str(source), str(target)]) == 2
    assert "refused" in capsys.readouterr().err
    assert convert.main(["--from", "timm", str(tmp_path / "none.pth"), str(target)]) == 2

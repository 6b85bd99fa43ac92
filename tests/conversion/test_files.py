import pytest
import torch

from sparsercnn.conversion import ConversionError, convert_file


def test_only_must_match_something(tmp_path):
    torch.save({"state_dict": {"neck.x.bias": torch.zeros(5)}}, tmp_path / "theirs.pth")
    files = [str(tmp_path / name) for name in ("theirs.pth", "ours.pth")]
    with pytest.raises(ConversionError, match=r"has no weights whose names begin with body\."):
        convert_file(*files, "mmdetection", only=["body."])


def test_unknown_parts_of_a_file_are_named(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "discriminator": {}}, path)
    with pytest.raises(ConversionError, match="discriminator"):
        convert_file(str(path), str(tmp_path / "y.pth"), "torchvision")
    torch.save({"conv1.weight": torch.zeros(1), "step": "3"}, path)
    with pytest.raises(ConversionError, match="step"):
        convert_file(str(path), str(tmp_path / "y.pth"), "torchvision")

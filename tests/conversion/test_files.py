import pytest
import torch
from torch import nn

from sparsercnn.conversion import ConversionError, convert_file
from sparsercnn.engine.training_checkpoint import TrainingCheckpointer
from sparsercnn.engine.weight_average import WeightAverage


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


def test_of_an_averaged_model_the_average_is_converted(tmp_path):
    model = nn.Linear(2, 3)
    average = WeightAverage(model, decay=0.5, warmup=1)
    for iteration in range(2):
        average.update(iteration)
        with torch.no_grad():
            model.weight.add_(1)
    TrainingCheckpointer(model, str(tmp_path), average=average).save("ours")
    files = [str(tmp_path / name) for name in ("ours.pth", "again.pth")]
    convert_file(*files, "sparsercnn")
    weights = [torch.load(file)["model"]["weight"] for file in files]
    assert torch.equal(*weights) and not torch.equal(weights[0], model.weight)

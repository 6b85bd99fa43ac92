"""The average of the weights: sums worked by hand, and what a checkpoint of it holds."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from sparsercnn.engine.checkpoint import load_for_inference
from sparsercnn.engine.training_checkpoint import TrainingCheckpointer
from sparsercnn.engine.weight_average import WeightAverage
from sparsercnn.errors import CheckpointError, ConfigError
from sparsercnn.modeling.compilation import compile_for_training


def _scalar(value=0.0):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def _set(model, value):
    with torch.no_grad():
        model.weight.fill_(value)


def _averaged(average):
    with average.applied():
        return average.model.weight.item()


def test_constant_decay_by_hand():
    model = _scalar()
    average = WeightAverage(model, decay=0.75, warmup=1)
    for iteration, value in enumerate([8.0, 4.0, 0.0]):
        _set(model, value)
        average.update(iteration)
    # 8; 3/4 8 + 1/4 4 = 7; 3/4 7 = 5.25
    assert _averaged(average) == 5.25
    assert model.weight.item() == 0.0


def test_warmup_by_hand():
    model = _scalar()
    average = WeightAverage(model, decay=0.4, warmup=5)
    for iteration, value in enumerate([6.0, 0.0, 1.0]):
        _set(model, value)
        average.update(iteration)
    # d_1 = min(0.4, 2/6) = 1/3: 6/3 = 2.   d_2 = min(0.4, 3/7) = 0.4: 0.8 + 0.6 = 1.4
    assert _averaged(average) == pytest.approx(1.4)


def test_iterations_before_the_start_do_not_count():
    model = _scalar(3.0)
    average = WeightAverage(model, decay=0.5, warmup=1, start_iter=2)
    for iteration in range(2):
        average.update(iteration)
    assert average.num_updates == 0 and _averaged(average) == 3.0
    _set(model, 8.0)
    average.update(2)
    _set(model, 4.0)
    average.update(3)
    assert average.num_updates == 2 and _averaged(average) == 6.0


class _Mixed(nn.Module):
    """All kinds of values: trained, frozen, statistics, counters, a weight with two names."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.same = self.conv
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.fixed = FrozenBatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.conv(x))


def test_what_is_averaged():
    model = _Mixed().to(memory_format=torch.channels_last)
    average = WeightAverage(model, decay=0.5, warmup=1)
    average.update(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(2)
    model(torch.randn(2, 2, 4, 4))  # moves the statistics, and counts
    after = {name: value.clone() for name, value in model.state_dict().items()}
    average.update(1)
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    with average.applied():
        for name, value in model.state_dict().items():
            counted = not value.is_floating_point()
            expected = after[name] if counted else (before[name] + after[name]) / 2
            torch.testing.assert_close(value, expected, msg=name)
    assert not torch.equal(after["norm.running_mean"], before["norm.running_mean"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, after[name])


@pytest.mark.slow
def test_weights_are_their_own_after_an_error_too():
    model = _scalar(1.0)
    average = WeightAverage(model, decay=0.5, warmup=1)
    average.update(0)
    _set(model, 0.1)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert model.weight.item() == pytest.approx(0.1) and _averaged(average) == 1.0


def test_compiled_code_sees_the_average(tiny_cfg):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Linear(1, 1, bias=False)

        def forward(self, x):
            return self.backbone(x)

    model = Model()
    nn.init.constant_(model.backbone.weight, 2.0)
    compile_for_training(model)
    average = WeightAverage(model, decay=0.5, warmup=1)
    average.update(0)
    with torch.no_grad():
        model.backbone.weight.fill_(4.0)
    x = torch.ones(1, 1)
    assert model(x).item() == 4.0
    with average.applied():
        assert model(x).item() == 2.0
    assert model(x).item() == 4.0


@pytest.fixture
def run(tmp_path):
    """A model whose weight is 4 and average 6, and its checkpointer."""
    model = _scalar(8.0)
    average = WeightAverage(model, decay=0.5, warmup=1)
    average.update(0)
    _set(model, 4.0)
    average.update(1)
    return TrainingCheckpointer(model, str(tmp_path), average=average)


def _continued(folder, name, averaged=True):
    model = _scalar(-1.0)
    average = WeightAverage(model, decay=0.5, warmup=1) if averaged else None
    checkpointer = TrainingCheckpointer(model, str(folder), average=average)
    checkpointer.load(str(folder / f"{name}.pth"))
    return model, average


@pytest.mark.parametrize("raw", [False, True])
def test_a_checkpoint_is_of_one_and_resumes_both(run, tmp_path, raw):
    run.save("model", raw=raw)
    assert run.model.weight.item() == 4.0
    fresh = _scalar()
    load_for_inference(fresh, str(tmp_path / "model.pth"))  # as evaluation, demo and export do
    assert fresh.weight.item() == (4.0 if raw else 6.0)
    model, average = _continued(tmp_path, "model")
    assert (model.weight.item(), _averaged(average), average.num_updates) == (4.0, 6.0, 2)


def test_without_its_average_a_run_goes_on_with_its_own_weights(run, tmp_path, caplog):
    run.save("model")
    assert _continued(tmp_path, "model", averaged=False)[0].weight.item() == 4.0
    assert "SOLVER.EMA.ENABLED is False" in caplog.text


def test_an_average_can_begin_in_a_resumed_run(tmp_path):
    TrainingCheckpointer(_scalar(5.0), str(tmp_path)).save("model")
    _, average = _continued(tmp_path, "model")
    assert average.num_updates == 0 and _averaged(average) == 5.0
    average.update(7)
    assert _averaged(average) == 5.0


def test_another_models_average_is_refused(run, tmp_path):
    other = WeightAverage(nn.Linear(2, 1))
    with pytest.raises(CheckpointError, match=r"no weight of shape \(1, 2\)"):
        other.load_state_dict(run.average.state_dict())


def test_values_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"SOLVER\.EMA\.DECAY is 1"):
        WeightAverage(_scalar(), decay=1.0)
    with pytest.raises(ConfigError, match=r"SOLVER\.EMA\.WARMUP is 0"):
        WeightAverage(_scalar(), warmup=0)

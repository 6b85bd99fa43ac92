"""What is frozen does not move, whatever mode the model is set to."""

import copy

import pytest
import torch
from torch import nn

from sparsercnn.errors import ConfigError
from sparsercnn.modeling.freezing import freeze


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
        self.neck = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2))
        self.head = nn.Conv2d(2, 1, 1)

    def forward(self, x):
        return self.head(self.neck(self.body(x)))


def _train(model):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()
    model(torch.randn(4, 1, 3, 3) + 2).square().mean().backward()
    optimizer.step()


def _moved(model, before):
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


@pytest.mark.parametrize("pattern", ["body", "body.*", "bod?"])
def test_weights_and_statistics_stay(pattern):
    model = _Model()
    names = list(model.state_dict())
    freeze(model, [pattern])
    assert list(model.state_dict()) == names
    for changed in (model, copy.deepcopy(model)):  # evaluation works on a copy
        before = copy.deepcopy(changed.state_dict())
        changed.eval()
        _train(changed)
        moved = _moved(changed, before)
        assert moved == {k for k in before if not k.startswith("body")}
        assert changed.training and changed.neck.training and not changed.body[1].training


def test_a_pattern_of_weights_leaves_other_values():
    model = _Model()
    freeze(model, ["*.1.weight", "head.bias"])
    before = copy.deepcopy(model.state_dict())
    _train(model)
    assert set(before) - _moved(model, before) == {"body.1.weight", "neck.1.weight", "head.bias"}


def test_names_of_the_state_dict_and_of_modules(tiny_cfg):
    from detectron2.modeling import build_model

    model = build_model(tiny_cfg)
    freeze(model, ["init_proposal_boxes", "proposals.init_proposal_features", "head.head_series.0"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {f"proposals.init_proposal_{x}.weight" for x in ("boxes", "features")} <= frozen
    assert "head.head_series.0.norm1.weight" in frozen
    assert "head.head_series.1.norm1.weight" not in frozen


def test_a_pattern_without_match_is_refused():
    with pytest.raises(ConfigError, match="'bodi' matches no weight.*body"):
        freeze(_Model(), ["head", "bodi"])


def test_a_model_that_is_frozen_as_a_whole_is_refused():
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        freeze(_Model(), ["*"])

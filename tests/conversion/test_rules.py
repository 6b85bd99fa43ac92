import pytest
import torch

from sparsercnn.conversion import ConversionError, Drop, Rule, convert


def test_rule_worked_by_hand():
    rule = Rule("layer{i}.{j}.bn{k}.{leaf}", "res{i+1}.{j}.conv{k}.norm.{leaf}")
    x = torch.zeros(1)
    assert (
        rule.apply("layer3.22.bn1.running_mean", x, False)[0] == "res4.22.conv1.norm.running_mean"
    )
    assert rule.apply("res4.22.conv1.norm.running_mean", x, True)[0] == "layer3.22.bn1.running_mean"
    assert rule.apply("layer3.22.bn1.running_mean2", x, False) is None
    assert rule.apply("xlayer3.22.bn1.bias", x, False) is None


def test_values_change_with_the_name():
    rule = Rule("a{i}.{leaf}", "b{i}.{leaf}", lambda x, f: x * int(f["i"]), lambda x, f: x / 3)
    there = convert({"a3.bias": torch.ones(2)}, [rule]).weights
    assert torch.equal(there["b3.bias"], torch.full((2,), 3.0))
    assert torch.equal(convert(there, [rule], reverse=True).weights["a3.bias"], torch.ones(2))


def test_weights_that_no_rule_covers_are_all_named():
    weights = {f"head.fc{i}.weight": torch.zeros(i, 2) for i in (1, 2)} | {"known": torch.zeros(1)}
    with pytest.raises(ConversionError, match="No rule covers 2 of 3") as raised:
        convert(weights, [Rule("known", "known")])
    assert raised.value.keys == ["head.fc1.weight", "head.fc2.weight"]
    assert "head.fc1.weight (1, 2)" in str(raised.value)
    assert "head.fc2.weight (2, 2)" in str(raised.value)


def test_two_weights_never_share_a_name():
    rules = [Rule("a.{leaf}", "x.{leaf}"), Rule("b.{leaf}", "x.{leaf}")]
    with pytest.raises(ConversionError, match="a.bias and b.bias would both become x.bias"):
        convert({"a.bias": torch.zeros(1), "b.bias": torch.zeros(1)}, rules)


def test_dropped_weights_are_counted():
    weights = {"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}
    result = convert(weights, [Drop("fc.{leaf}", "classifier")])
    assert result.weights == {} and result.dropped == {"classifier": 2}

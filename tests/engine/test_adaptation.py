"""Rows of classes and proposals that move to other models: small matrices worked by hand."""

import pytest
import torch
import yaml

from sparsercnn.engine.adaptation import adapt_weights, describe_loading


def _adapt(name, own, saved, classes=("a", "b"), saved_classes=("a", "b"), kind="thing_classes"):
    own, saved = ({name: torch.tensor(x)} for x in (own, saved))
    metas = ({kind: list(x)} if x else {} for x in (classes, saved_classes))
    return adapt_weights(own, saved, *metas).get(name)


LOGITS = "head.head_series.3.class_logits.bias"


def test_rows_follow_the_names_of_the_classes():
    found = _adapt(LOGITS, [-1.0, -2.0, -3.0], [1.0, 2.0], ["b", "new", "a"])
    assert found.value.tolist() == [2.0, -2.0, 1.0]
    assert found.detail == "rows kept: b, a; new: new" and found.has_new


def test_as_many_classes_of_other_names_are_new():
    found = _adapt(LOGITS, [-1.0, -2.0], [1.0, 2.0], ["x", "y"])
    assert found.value.tolist() == [-1.0, -2.0] and found.detail == "new: x, y"


def test_equal_classes_load_as_they_are():
    assert _adapt(LOGITS, [-1.0, -2.0], [1.0, 2.0]) is None


def test_a_dropped_class_leaves_nothing_new():
    found = _adapt(LOGITS, [-1.0], [1.0, 2.0], ["b"])
    assert found.value.tolist() == [2.0] and not found.has_new


def test_without_names_rows_are_not_guessed():
    assert _adapt(LOGITS, [-1.0, -2.0], [1.0, 2.0], saved_classes=None) is None
    assert _adapt(LOGITS, [-1.0], [1.0, 2.0], ["a"], saved_classes=None) is None


@pytest.mark.parametrize("classes", [5, "ab", {"a": 0, "b": 1}, [0, 1]])
def test_what_is_not_a_list_of_names_is_none(classes):
    own, saved = ({LOGITS: torch.tensor(x)} for x in ([-1.0, -2.0], [1.0, 2.0]))
    metas = {"thing_classes": ["b", "a"]}, {"thing_classes": classes}
    assert adapt_weights(own, saved, *metas) == {}


def test_background_stays_behind_the_classes():
    softmax = _adapt(LOGITS, [-1.0, -2.0, -3.0], [1.0, 9.0], ["b", "a"], ["a"])
    assert softmax.value.tolist() == [-1.0, 1.0, 9.0]
    # From the focal loss to the softmax: "no object" is new.
    softmax = _adapt(LOGITS, [-1.0, -2.0], [1.0], ["a"], ["a"])
    assert softmax.value.tolist() == [1.0, -2.0] and softmax.has_new


@pytest.mark.parametrize("name", ["mask_branch.mask_head.2", "roi_heads.mask_head"])
def test_masks_follow_the_names_of_the_classes(name):
    found = _adapt(f"{name}.predictor.bias", [-1.0, -2.0], [1.0, 2.0], ["b", "new"])
    assert found.value.tolist() == [2.0, -2.0] and found.has_new


def test_boxes_of_each_class_have_four_rows():
    name = "roi_heads.box_predictor.bbox_pred.bias"
    found = _adapt(name, [-1.0] * 8, [1.0, 2.0, 3.0, 4.0], ["b", "a"], ["a"])
    assert found.value.tolist() == [-1.0] * 4 + [1.0, 2.0, 3.0, 4.0]
    # One set of rows for all classes, and for a single class of any name.
    name = "roi_heads.box_predictor.1.bbox_pred.bias"
    assert _adapt(name, [-1.0] * 4, [1.0] * 4, ["a", "b", "c"]) is None
    assert _adapt(name, [-1.0] * 4, [1.0] * 4, ["a"], ["b"]) is None


@pytest.mark.parametrize(
    "name, kind",
    [
        ("roi_heads.box_predictor.2.cls_score.weight", "thing_classes"),
        ("roi_heads.mask_head.0.predictor.weight", "thing_classes"),
        ("roi_heads.mask_head.predictor.weight", "thing_classes"),
        ("sem_seg_head.predictor.weight", "stuff_classes"),
        ("sem_seg_head.position_predictor.weight", "stuff_classes"),
    ],
)
def test_all_layers_of_classes(name, kind):
    own, saved = [[[-1.0]], [[-2.0]]], [[[1.0]], [[2.0]]]
    found = _adapt(name, own, saved, ["b", "a"], kind=kind)
    assert found.value.flatten().tolist() == [2.0, 1.0]


def test_the_number_of_classes_is_no_key():
    """Other layers with as many rows as classes stay."""
    for name in ("head.head_series.0.norm1.weight", "backbone.bottom_up.stem.conv1.weight"):
        assert _adapt(name, [-1.0, -2.0], [1.0, 2.0], ["b", "a"]) is None


def test_other_widths_do_not_fit():
    assert _adapt("head.x.class_logits.weight", [[-1.0, -2.0]], [[1.0]], ["a"], ["a"]) is None


PROPOSALS = "init_proposal_boxes.weight"


def _resample(own, saved):
    own, saved = ({PROPOSALS: torch.arange(x)[:, None].float()} for x in (own, saved))
    own[PROPOSALS] -= 100
    return adapt_weights(own, saved, {}, {}).get(PROPOSALS)


def test_fewer_proposals_are_evenly_spaced_ones():
    found = _resample(3, 7)
    assert found.value.flatten().tolist() == [0, 3, 6] and not found.has_new
    assert _resample(4, 6).value.flatten().tolist() == [0, 1, 3, 5]
    assert _resample(1, 6).value.flatten().tolist() == [0]


def test_added_proposals_are_as_initialised():
    found = _resample(4, 2)
    assert found.value.flatten().tolist() == [0, 1, -98, -97]
    assert found.has_new and found.detail == "2 proposals kept, 2 new"
    assert _resample(3, 3) is None


def _expert_weights(experts, proposals):
    values = torch.arange(experts * proposals).float()
    content = {"MODEL": {"SparseRCNN": {"PROPOSALS": {"NUM_EXPERTS": experts}}}}
    weights = {PROPOSALS: values[:, None], "expert_weights.linear2.bias": values}
    return weights, {"config_yaml": yaml.safe_dump(content)}


def test_each_expert_keeps_the_same_proposals():
    (own, own_meta), (saved, saved_meta) = _expert_weights(2, 2), _expert_weights(2, 5)
    adapted = adapt_weights(own, saved, own_meta, saved_meta)
    # Of 0 ... 4 and 5 ... 9, the first and the last.
    for found in adapted.values():
        assert found.value.flatten().tolist() == [0, 4, 5, 9]
    assert len(adapted) == 2


def test_another_number_of_experts_starts_anew():
    (own, own_meta), (saved, saved_meta) = _expert_weights(4, 2), _expert_weights(2, 8)
    assert adapt_weights(own, saved, own_meta, saved_meta) == {}
    del saved_meta["config_yaml"]
    assert adapt_weights(own, _expert_weights(2, 3)[0], own_meta, saved_meta) == {}


def test_the_table():
    classes, saved_classes = ["a", "c"], ["a", "b"]
    stages = [
        f"head.head_series.{i}.class_logits.{x}" for i in range(3) for x in ("weight", "bias")
    ]
    own = {name: torch.zeros(2) for name in stages}
    own |= {
        name: torch.zeros(1) for name in ("backbone.x.weight", "backbone.y.weight", "neck.bias")
    }
    metas = {"thing_classes": classes}, {"thing_classes": saved_classes}
    adapted = adapt_weights(own, own, *metas)
    table = describe_loading(list(own), adapted, {"neck.bias"}, ["old.0.weight", "old.1.weight"])
    lines = [" ".join(line.split()) for line in table.splitlines()[2:]]
    assert lines == [
        "kept backbone 2",
        "adapted head.head_series.*.class_logits 6 rows kept: a; new: c",
        "new neck 1",
        "not used old.* 2",
    ]

"""Choices follow from the figures, and give back what has been measured."""

import pytest
import yaml
from detectron2.structures import BoxMode

from sparsercnn import get_config
from sparsercnn.start.choices import Choice, choose
from sparsercnn.start.figures import count
from sparsercnn.start.writing import explain, to_yaml


def make_records(numbers, side, width=640, height=480):
    """Images with that many square objects."""
    mode = BoxMode.XYWH_ABS
    return [
        {
            "width": width,
            "height": height,
            "annotations": [
                {"bbox": [0, 0, side, side], "category_id": 0, "bbox_mode": mode}
                for _ in range(number)
            ],
        }
        for number in numbers
    ]


def choices_of(records, device="cpu", base="recipes/small_data", opts=()):
    figures = count(records, 10, ["cat"])
    return {x.key: x for x in choose(figures, get_config(base, opts), device)}


def values_of(*arguments):
    return {key.rpartition(".")[2]: x.value for key, x in choices_of(*arguments).items()}


def test_figures_by_hand():
    records = make_records([0, 1, 3], 10)
    records[2]["annotations"][0] = {"bbox": [0, 0, 40, 90], "category_id": 1, "iscrowd": 0}
    records[2]["annotations"][1]["iscrowd"] = 1
    figures = count(records, 7, ["cat", "dog", "emu"])
    assert figures.class_counts == [2, 1, 0] and figures.num_objects == 3
    assert (figures.num_images, figures.num_val_images) == (3, 7)
    assert (figures.objects_mean, figures.objects_most, figures.objects_99) == (1, 2, 2)
    assert figures.size_median == 10 and figures.size_5 == 10
    assert (figures.side_median, figures.aspect) == (480, pytest.approx(4 / 3))
    empty = count(make_records([0, 0], 1), 1, ["cat"])
    assert empty.num_objects == 0 and empty.size_median == 0


def test_shapes_get_the_proposals_of_their_quickstart():
    values = values_of(make_records([0, 1, 2, 3, 4] * 120, 40, 128, 128))
    assert (values["NUM_PROPOSALS"], values["K"]) == (20, 4)
    assert values["MIN_SIZE_TEST"] == 128 and values["MAX_SIZE_TEST"] == 128


def test_cells_get_the_size_of_their_config():
    # As in BCCD: 640 x 480, up to 28 objects, of which the smallest have 43 pixels.
    values = values_of(make_records([8, 14, 20, 25] * 51 + [28], 43))
    assert values["NUM_PROPOSALS"] == 50 and values["K"] == 2
    assert values["MIN_SIZE_TRAIN"] == (240,) and values["MAX_SIZE_TRAIN"] == 320
    # About the 1,500 iterations of 4 that were measured.
    assert values["IMS_PER_BATCH"] == 4 and values["EPOCHS"] * 205 / 4 == pytest.approx(
        1500, rel=0.03
    )


def test_sizes_stay_in_their_bounds():
    tiny = make_records([3] * 9, 8, 4000, 3000)
    assert (
        values_of(tiny)["MIN_SIZE_TEST"] == 480 and values_of(tiny, "cuda")["MIN_SIZE_TEST"] == 800
    )
    large = make_records([3] * 9, 900, 1000, 1000)
    assert values_of(large)["MIN_SIZE_TEST"] == 128
    small = values_of(make_records([3] * 9, 4, 60, 40))
    assert (small["MIN_SIZE_TEST"], small["MAX_SIZE_TEST"]) == (40, 64)  # not enlarged


@pytest.mark.parametrize("side", [100, 250, 470, 790])
def test_images_are_not_enlarged_to_a_multiple_of_16(side):
    tiny = make_records([3] * 9, 2, 2 * side, side)
    values = values_of(tiny, "cuda")
    assert values["MIN_SIZE_TEST"] == side and values["MIN_SIZE_TRAIN"] == (side,)
    assert 2 * side <= values["MAX_SIZE_TEST"] < 2 * side + 16
    assert values_of(tiny)["MIN_SIZE_TEST"] == min(side, 480)


def test_crowded_images_are_told():
    choices = choices_of(make_records([5] * 300 + [900], 20))
    assert choices["MODEL.SparseRCNN.NUM_PROPOSALS"].value == 20
    assert "The fullest has 900" in choices["MODEL.SparseRCNN.NUM_PROPOSALS"].why
    assert values_of(make_records([400] * 9, 20))["NUM_PROPOSALS"] == 300
    assert values_of(make_records([400] * 9, 20))["K"] == 1


def test_few_and_many_images():
    few, many = (values_of(make_records([2] * n, 30)) for n in (3, 5000))
    assert (few["IMS_PER_BATCH"], few["EPOCHS"], few["EVAL_EPOCHS"]) == (3, 2000, 200)
    assert (many["EPOCHS"], many["EVAL_EPOCHS"], many["CHECKPOINT_EPOCHS"]) == (12, 1, 1)


def test_the_warm_up_of_a_published_schedule_is_shortened():
    base = "sparse_rcnn/sparsercnn.res50.100pro.3x"
    few = choices_of(make_records([2] * 100, 30), base=base)
    warmup = few["SOLVER.WARMUP_FRACTION"]
    # 60 epochs of 100 images are 375 iterations of 16.
    assert warmup.value == 0.07 and "The 1,000 iterations of _BASE_" in warmup.why
    # 12 epochs of 13,334 images are 10,001 iterations.
    assert "SOLVER.WARMUP_FRACTION" not in choices_of(make_records([2] * 13334, 30), base=base)
    shorter = ("SOLVER.WARMUP_ITERS", "37")
    assert "SOLVER.WARMUP_FRACTION" not in choices_of(
        make_records([2] * 100, 30), "cpu", base, shorter
    )
    assert "SOLVER.WARMUP_FRACTION" not in choices_of(make_records([2] * 100, 30))  # has one


def test_only_a_schedule_whose_rate_falls_to_0_is_said_to():
    records = make_records([2] * 9, 30)
    assert "the rate falls to 0 at the end" in choices_of(records)["SOLVER.EPOCHS"].why
    stepped = choices_of(records, base="sparse_rcnn/sparsercnn.res50.100pro.3x")
    assert "falls" not in stepped["SOLVER.EPOCHS"].why


@pytest.mark.parametrize(
    ("optimizer", "rate", "rule"),
    [("ADAMW", 0.0003, "by the square root of the ratio"), ("SGD", 0.00015, "in proportion")],
)
def test_the_rate_follows_a_smaller_batch_by_the_rule_of_its_optimizer(optimizer, rate, rule):
    opts = ["SOLVER.OPTIMIZER", optimizer]  # 0.0006 for 4 images
    one = choices_of(make_records([2], 30), opts=opts)
    assert one["SOLVER.IMS_PER_BATCH"].value == 1
    assert one["SOLVER.BASE_LR"].value == pytest.approx(rate)
    assert rule in one["SOLVER.BASE_LR"].why
    four = choices_of(make_records([2] * 4, 30), opts=[*opts, "SOLVER.BASE_LR", "0.00061234"])
    assert four["SOLVER.BASE_LR"].value == 0.00061234  # as it is


def test_the_file_is_short_and_says_why():
    choices = [
        Choice("A.ONE", 1, "First. " * 30, "one figure"),
        Choice("B", 'a "text" \\', ""),
        Choice("A.SUB.LIST", ("x: y", 2), "A list."),
    ]
    text = to_yaml(choices, "A title.", "/some/base.yaml")
    content = yaml.safe_load(text)
    assert content == {
        "_BASE_": "/some/base.yaml",
        "A": {"ONE": 1, "SUB": {"LIST": ["x: y", 2]}},
        "B": 'a "text" \\',
    }
    lines = text.splitlines()
    assert lines[0] == "# A title." and max(map(len, lines)) < 100
    at = lines.index("  ONE: 1")
    assert lines[at - 1].startswith("  # ")
    assert "one figure" in explain(choices) and "LIST" not in explain(choices)


def test_every_choice_says_why():
    choices = choices_of(make_records([3] * 9, 20))
    unexplained = [key for key, choice in choices.items() if not choice.why]
    assert unexplained == ["INPUT.MAX_SIZE_TEST"]  # below "As in training."

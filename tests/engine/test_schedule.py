"""Schedules in epochs and fractions: iterations worked by hand."""

import itertools
import logging

import pytest
from detectron2.config import get_cfg

from sparsercnn import add_sparsercnn_config
from sparsercnn.data import build_train_loader, count_train_images
from sparsercnn.engine.schedule import schedule_in_iterations
from sparsercnn.engine.setup import load_config
from sparsercnn.errors import ConfigError


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.SOLVER.IMS_PER_BATCH = 4
    return cfg


def test_epochs_by_hand(cfg):
    cfg.SOLVER.ACCUMULATE_STEPS = 2
    cfg.SOLVER.EPOCHS = 12
    cfg.SOLVER.CHECKPOINT_EPOCHS = 0.5
    cfg.TEST.EVAL_EPOCHS = 3
    cfg.SOLVER.STEP_FRACTIONS = (0.5, 0.9)
    cfg.SOLVER.WARMUP_FRACTION = 0.1
    cfg.freeze()
    # 205 images, 8 per iteration: an epoch is 25.625 iterations.
    done = schedule_in_iterations(cfg, 205)
    assert done.SOLVER.MAX_ITER == 308  # 307.5
    assert done.SOLVER.STEPS == (154, 277)  # 154, 277.2
    assert done.SOLVER.WARMUP_ITERS == 31  # 30.8
    assert done.SOLVER.CHECKPOINT_PERIOD == 13  # 12.8
    assert done.TEST.EVAL_PERIOD == 77  # 76.875; not 76, after which 304 would precede 308
    assert done.is_frozen() and cfg.SOLVER.MAX_ITER == 40000
    assert schedule_in_iterations(done, 205) == done


def test_whole_numbers_stay_whole(cfg):
    cfg.SOLVER.EPOCHS = 1.1  # 1.1 x 100 is 110.00000000000001
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.SOLVER.WARMUP_ITERS = 0
    assert schedule_in_iterations(cfg, 100).SOLVER.MAX_ITER == 110


def test_steps_keep_their_proportion_to_the_schedule(cfg):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 270000, (210000, 250000)
    cfg.SOLVER.EPOCHS, cfg.SOLVER.WARMUP_ITERS = 27, 10
    done = schedule_in_iterations(cfg, 400)
    assert (done.SOLVER.MAX_ITER, done.SOLVER.STEPS) == (2700, (2100, 2500))


def test_fractions_alone_are_of_the_iterations(cfg):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEP_FRACTIONS = 200, [0.75]
    done = schedule_in_iterations(cfg, None)
    assert (done.SOLVER.STEPS, done.SOLVER.MAX_ITER, done.SOLVER.WARMUP_ITERS) == (
        (150,),
        200,
        1000,
    )


def test_schedules_in_iterations_stay_as_they_are(cfg):
    assert schedule_in_iterations(cfg, 100000) is cfg


def test_the_schedule_is_logged_once(cfg, caplog):
    caplog.set_level(logging.INFO)
    cfg.SOLVER.EPOCHS, cfg.TEST.EVAL_EPOCHS, cfg.SOLVER.WARMUP_FRACTION = 12, 1, 0.05
    schedule_in_iterations(cfg, 200)
    assert [x.getMessage() for x in caplog.records] == [
        "Schedule: 600 iterations of 4 images, 12 epochs of 200; warm-up 30; steps at 450; "
        "evaluation every 50; a checkpoint at the end alone."
    ]


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("SOLVER.EPOCHS", 0, "SOLVER.EPOCHS is 0; it must be None, or a number above 0"),
        ("SOLVER.EPOCHS", "12 epochs", "SOLVER.EPOCHS is '12 epochs'"),
        ("SOLVER.CHECKPOINT_EPOCHS", True, "SOLVER.CHECKPOINT_EPOCHS is True"),
        ("TEST.EVAL_EPOCHS", -1.0, "TEST.EVAL_EPOCHS is -1"),
        ("SOLVER.STEP_FRACTIONS", (0.9, 0.8), "must ascend"),
        ("SOLVER.STEP_FRACTIONS", (600, 700), "each a number above 0 and below 1"),
        ("SOLVER.WARMUP_FRACTION", 1.0, "SOLVER.WARMUP_FRACTION is 1.0"),
    ],
)
def test_values_out_of_range_are_refused_at_once(squares, key, value, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config(squares / "tiny.yaml", [key, str(value)], register=False)


def test_a_warmup_longer_than_the_schedule_is_refused(cfg):
    cfg.SOLVER.EPOCHS = 12
    with pytest.raises(ConfigError, match=r"WARMUP_ITERS 1000 .* are 600 iter.*WARMUP_FRACTION"):
        schedule_in_iterations(cfg, 200)


@pytest.mark.parametrize("steps", [None, (0.5,)])
def test_a_warmup_longer_than_the_iterations_is_told(cfg, caplog, steps):
    """Not refused: a few iterations are a test of whether a config runs."""
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEP_FRACTIONS = 100, 101, steps
    schedule_in_iterations(cfg, 200)
    assert "WARMUP" not in caplog.text
    cfg.SOLVER.MAX_ITER = 100
    schedule_in_iterations(cfg, 200)
    message = caplog.records[-1].getMessage()
    assert "SOLVER.WARMUP_ITERS 100" in message and "SOLVER.MAX_ITER is 100" in message
    assert "Set SOLVER.WARMUP_FRACTION" in message


def test_epochs_need_the_number_of_images(cfg):
    cfg.SOLVER.EPOCHS = 12
    with pytest.raises(ConfigError, match=r"Set SOLVER\.MAX_ITER"):
        schedule_in_iterations(cfg, None)


def test_far_too_many_epochs_are_told_before_the_start(cfg, caplog):
    cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD = 2160000, 58640
    schedule_in_iterations(cfg, 200)
    message = caplog.records[-1].getMessage()
    assert "each of its 200 images 43,200 times" in message and "58,640" in message
    caplog.clear()
    schedule_in_iterations(cfg, 118000)  # 73 epochs
    cfg.SOLVER.MAX_ITER = 15000  # 300
    schedule_in_iterations(cfg, 200)
    assert not caplog.records


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, 3),
        ({"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False}, 4),
        (
            {
                "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
                "DATALOADER.REPEAT_THRESHOLD": 1.0,
            },
            3,
        ),
    ],
)
def test_an_epoch_has_the_images_that_are_trained_on(squares, options, expected):
    path = squares / "squares.json"
    text = path.read_text()
    assert '"iscrowd": 0' in text
    path.write_text(text.replace('"iscrowd": 0', '"iscrowd": 1', 1))
    opts = [str(x) for pair in options.items() for x in pair]
    opts = ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "True", *opts, "SEED", "1"]
    cfg = load_config(squares / "tiny.yaml", opts)
    assert count_train_images(cfg) == expected
    assert build_train_loader(cfg).images_per_epoch == expected


def test_an_epoch_of_a_subset_is_the_subset(squares):
    cfg = load_config(squares / "tiny.yaml", ["SEED", "1"]).clone()
    cfg.defrost()
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.7  # detectron2 0.6 has the sampler, but not the key
    loader = build_train_loader(cfg)
    assert loader.images_per_epoch == 2
    assert len(set(itertools.islice(loader.sampler, 10))) == 2

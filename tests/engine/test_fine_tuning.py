"""Trainings that start from a model of other data."""

import json
import logging
import os

import pytest
import torch

from sparsercnn.engine.checkpoint import load_for_inference
from sparsercnn.engine.setup import load_config
from sparsercnn.engine.trainer import Trainer
from sparsercnn.errors import CheckpointError, ConfigError, UserError

LOGITS = "head.head_series.0.class_logits"


@pytest.fixture
def run(squares, monkeypatch):
    monkeypatch.chdir(squares)

    def run(folder, resume=False, train=True, **changes):
        """A trainer after its training; changes are keys with "__" for dots."""
        options = {"SEED": 3, "OUTPUT_DIR": str(squares / folder), "DATASETS.TEST": "()"}
        options |= {key.replace("__", "."): value for key, value in changes.items()}
        cfg = load_config("tiny.yaml", [str(x) for pair in options.items() for x in pair])
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        torch.manual_seed(3)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume)
        if train:
            trainer.train()
        return trainer

    return run


@pytest.fixture
def other_data(squares):
    """The squares with classes "even", "third" and "odd", in this order."""
    content = json.loads((squares / "squares.json").read_text())
    content["categories"] = [
        {"id": i, "name": name} for i, name in enumerate(["even", "third", "odd"], start=1)
    ]
    (squares / "other.json").write_text(json.dumps(content))
    return {
        "DATASETS__TRAIN": f"('coco:{squares}/other.json@{squares}',)",
        "MODEL__SparseRCNN__NUM_CLASSES": 3,
        "MODEL__WEIGHTS": str(squares / "first" / "model_final.pth"),
    }


def _weights(trainer):
    return {name: value.clone() for name, value in trainer.checkpointer.model.state_dict().items()}


def test_what_fits_is_kept(run, other_data, caplog):
    caplog.set_level(logging.INFO)
    first = _weights(run("first"))
    options = {"MODEL__SparseRCNN__NUM_PROPOSALS": 4, **other_data}
    fresh = _weights(run("fresh", train=False, **{**options, "MODEL__WEIGHTS": ""}))
    caplog.clear()
    adapted = _weights(run("second", train=False, **options))
    # Classes "odd", "even" became "even", "third", "odd".
    assert torch.equal(adapted[f"{LOGITS}.weight"][[2, 0]], first[f"{LOGITS}.weight"])
    assert torch.equal(adapted[f"{LOGITS}.weight"][1], fresh[f"{LOGITS}.weight"][1])
    boxes = "init_proposal_boxes.weight"
    assert torch.equal(adapted[boxes], first[boxes][[0, 1, 3, 5]])
    for name in set(first) - {boxes, "init_proposal_features.weight"}:
        if "class_logits" not in name:
            assert torch.equal(adapted[name], first[name]), name
    assert "adapted" in caplog.text and "rows kept: even, odd; new: third" in caplog.text
    assert "4 of 6 proposals, evenly spaced" in caplog.text
    assert "Skip loading parameter" not in caplog.text


def test_rates_of_new_layers_and_what_a_resumed_run_knows_of_them(run, other_data):
    run("first")
    options = {"SOLVER__NEW_LAYERS_MULTIPLIER": 10.0, "SOLVER__CHECKPOINT_PERIOD": 1, **other_data}

    def rates(trainer):
        names = {p: name for name, p in trainer.checkpointer.model.named_parameters()}
        return {
            names[p]: (group["initial_lr"], group["lr"])
            for group in trainer.optimizer.param_groups
            for p in group["params"]
        }

    trainer = run("second", **options)
    base = trainer.cfg.SOLVER.BASE_LR
    new = {name for name, rate in rates(trainer).items() if rate[0] == pytest.approx(10 * base)}
    assert new == {
        f"head.head_series.{i}.class_logits.{x}" for i in (0, 1) for x in ("weight", "bias")
    }
    assert {rate[0] for name, rate in rates(trainer).items() if name not in new} == {base}

    os.remove(other_data["MODEL__WEIGHTS"])  # a resumed run does not need it
    resumed = run("second", resume=True, train=False, **options)
    assert rates(resumed) == rates(trainer)
    states = [list(x.optimizer.state_dict()["state"].values()) for x in (resumed, trainer)]
    for actual, expected in zip(*states, strict=True):
        assert torch.equal(actual["exp_avg"], expected["exp_avg"])


@pytest.mark.parametrize("num_heads", [1, 3])
def test_a_run_with_rates_of_new_layers_is_not_resumed_as_another_model(run, other_data, num_heads):
    run("first")
    options = {"SOLVER__NEW_LAYERS_MULTIPLIER": 10.0, **other_data}
    run("second", **options)
    with pytest.raises(UserError, match="does not fit"):
        run("second", resume=True, MODEL__SparseRCNN__NUM_HEADS=num_heads, **options)


def test_rates_of_new_layers_that_a_run_did_not_have_are_not_ignored(run, other_data):
    run("first")
    run("second", SOLVER__MAX_ITER=1, **other_data)
    options = {"SOLVER__NEW_LAYERS_MULTIPLIER": 10.0, **other_data}
    with pytest.raises(ConfigError, match="optimizer"):
        run("second", resume=True, **options)
    run("second", resume=True, **other_data)  # which still knows them
    with pytest.raises(ConfigError, match="optimizer"):
        run("second", resume=True, SOLVER__MAX_ITER=3, **options)


def test_evaluation_and_resuming_stay_strict(run, other_data, squares):
    run("first")
    with pytest.raises(CheckpointError, match="class_logits.*in the file and .* in the model"):
        run("first", resume=True, **other_data)
    model = run("second", train=False, **other_data).checkpointer.model
    with pytest.raises(CheckpointError, match="class_logits"):
        load_for_inference(model, str(squares / "first" / "model_final.pth"))


def test_weights_of_which_none_fits_are_refused(run, squares):
    torch.save({"model": {"layer.weight": torch.zeros(1)}}, squares / "foreign.pth")
    with pytest.raises(CheckpointError, match=r"None of the weights in .*foreign\.pth fits"):
        run("out", MODEL__WEIGHTS=str(squares / "foreign.pth"))


def test_frozen_parts_do_not_move(run):
    first = _weights(run("first"))
    options = {"MODEL__WEIGHTS": "first/model_final.pth"}
    second = _weights(run("second", MODEL__FREEZE="('backbone.bottom_up',)", **options))
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert moved and not any(name.startswith("backbone.bottom_up") for name in moved)

"""A training that starts from the weights of a backbone."""

import pytest
import torch

from sparsercnn.engine.setup import load_config
from sparsercnn.engine.trainer import Trainer

OPTIONS = ["MODEL.BACKBONE.NAME", "build_vit_backbone", "MODEL.VIT.PATCH_SIZE", "8"]
OPTIONS += ["MODEL.VIT.EMBED_DIM", "16", "MODEL.VIT.DEPTH", "2", "MODEL.VIT.NUM_HEADS", "2"]
OPTIONS += ["MODEL.VIT.GLOBAL_BLOCKS", "(1,)", "MODEL.VIT.PRETRAIN_SIZE", "64"]
OPTIONS += ["SOLVER.LAYER_DECAY", "0.5", "SOLVER.NEW_LAYERS_MULTIPLIER", "3.0"]
OPTIONS += ["SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "1e-6", "SOLVER.WEIGHT_DECAY", "0.0"]


@pytest.fixture
def start(squares, monkeypatch):
    monkeypatch.chdir(squares)

    def start(*options, resume=False):
        cfg = load_config(str(squares / "tiny.yaml"), [*OPTIONS, *options])
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        return trainer

    return start


@pytest.fixture
def pretrained(start, squares):
    """A file with the names of MAE, and its weights."""
    prefix = "backbone.bottom_up."
    weights = start().model.state_dict()
    weights = {k.removeprefix(prefix): x for k, x in weights.items() if k.startswith(prefix)}
    weights = {k: torch.full_like(x, 0.02) for k, x in weights.items()}
    path = squares / "mae.pth"
    torch.save({"model": weights | {"cls_token": torch.zeros(1, 1, 16)}}, path)
    return str(path)


def rates(trainer):
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    groups = trainer.optimizer.param_groups
    return {names[id(p)]: g["initial_lr"] for g in groups for p in g["params"]}


def test_it_is_read_without_weights_and_not_by_a_resumed_run(start, pretrained, caplog):
    caplog.set_level("INFO")
    trainer = start("MODEL.VIT.PRETRAINED", pretrained, "SOLVER.MAX_ITER", "1")
    first = trainer.model.backbone.bottom_up.blocks[0].mlp.fc1.weight
    assert first.eq(0.02).all()
    found = rates(trainer)
    assert found["backbone.bottom_up.blocks.1.mlp.fc1.weight"] == pytest.approx(0.5e-6)
    assert found["backbone.bottom_up.pos_embed"] == pytest.approx(0.125e-6)
    assert found["backbone.level2.0.weight"] == pytest.approx(3e-6)  # is new
    (table,) = caplog.text.split("SOLVER.LAYER_DECAY 0.5:\n")[1:]  # once, with the rates in use
    rows = dict(row.split(maxsplit=1) for row in table.splitlines()[:7])
    assert rows["1"].split()[-2:] == ["0.25", "2.5e-07"]
    assert rows["neck"].split()[-2:] == rows["head"].split()[-2:] == ["3", "3e-06"]
    trainer.train()
    with torch.no_grad():
        weights = torch.load(pretrained, weights_only=True)
        weights["model"]["blocks.0.mlp.fc1.weight"] += 1
        torch.save(weights, pretrained)
    again = start("MODEL.VIT.PRETRAINED", pretrained, "SOLVER.MAX_ITER", "2", resume=True)
    assert again.model.backbone.bottom_up.blocks[0].mlp.fc1.weight.max() < 1
    assert rates(again) == pytest.approx(found)


def test_weights_of_a_detector_come_first(start, pretrained, squares, caplog):
    caplog.set_level("INFO")
    donor = start()
    torch.save({"model": donor.model.state_dict()}, squares / "donor.pth")
    trainer = start("MODEL.VIT.PRETRAINED", pretrained, "MODEL.WEIGHTS", str(squares / "donor.pth"))
    state, expected = trainer.model.state_dict(), donor.model.state_dict()
    assert all(torch.equal(state[k], x) for k, x in expected.items())
    assert "is not read: the training begins with MODEL.WEIGHTS" in caplog.text

"""The trainer around a toy model, whose "AP" is told to it, and a few runs of the detector."""

import contextlib
import itertools
import json
import math
import os
from collections import OrderedDict

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.env import seed_all_rng
from PIL import Image
from torch import nn

from sparsercnn import add_sparsercnn_config
from sparsercnn.cli.train import evaluate
from sparsercnn.engine.metrics_file import read_metrics
from sparsercnn.engine.setup import load_config
from sparsercnn.engine.trainer import Trainer
from sparsercnn.errors import ConfigError
from sparsercnn.modeling.segmentation.sem_seg_inference import SemSegInference

MetadataCatalog.get("toy_train").set(thing_classes=["bolt", "nut"])


@META_ARCH_REGISTRY.register()
class ToyModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.constant_(self.layer.bias, 0.1)

    def forward(self, batch):
        return {"loss_toy": self.layer(torch.stack([x["value"] for x in batch])).square().mean()}


class ToyTrainer(Trainer):
    """Trains on the same batch again and again, so that a resumed run sees what the first saw."""

    results = ()  # what the coming evaluations find

    @classmethod
    def build_train_loader(cls, cfg):
        return itertools.cycle([[{"value": torch.tensor([1.0, 2.0]), "file_name": "toy.jpg"}]])

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        cls.results = list(cls.results)
        return {"bbox": {"AP": cls.results.pop(0) if cls.results else 0.0}}


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "ToyModel"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TRAIN = ("toy_train",)
    cfg.DATASETS.TEST = ("toy_val",)
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.MAX_ITER = 6
    cfg.SOLVER.STEPS = (4,)
    cfg.SOLVER.WARMUP_ITERS = 3
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SEED = 1
    return cfg


def _train(cfg, resume=False, stop_at=None, results=()):
    """A run of its own; `stop_at`: killed at the start of that iteration."""
    ToyTrainer.results = results
    trainer = ToyTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    rates = []
    run_step = trainer.run_step

    def watched_step():
        if trainer.iter == stop_at:
            raise KeyboardInterrupt
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        run_step()

    trainer.run_step = watched_step
    try:
        trainer.train()
    except KeyboardInterrupt:
        assert stop_at is not None
    return trainer, rates


def _metrics(folder):
    lines = (folder / "metrics.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
def test_resume_continues_iteration_rate_and_moments(cfg, tmp_path, optimizer):
    cfg.SOLVER.OPTIMIZER = optimizer
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    whole, expected_rates = _train(cfg)
    assert len(set(expected_rates)) > 3  # a warm-up and a step, so that the test can fail

    cfg.OUTPUT_DIR = str(tmp_path / "parts")
    _, first_rates = _train(cfg, stop_at=5)  # past the checkpoint of iteration 2, as kills are
    resumed, last_rates = _train(cfg, resume=True)
    assert resumed.start_iter == 3
    assert first_rates[:3] + last_rates == expected_rates
    assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)
    states = [list(x.optimizer.state_dict()["state"][0].values()) for x in (resumed, whole)]
    for actual, expected in zip(*states, strict=True):
        assert torch.equal(torch.as_tensor(actual), torch.as_tensor(expected))
    assert _metrics(tmp_path / "parts")[-1]["iteration"] == 6


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
def test_a_resumed_run_follows_a_changed_config(cfg, optimizer):
    cfg.SOLVER.OPTIMIZER = optimizer
    _, before = _train(cfg, stop_at=5)
    solver = cfg.SOLVER
    solver.BASE_LR, solver.WEIGHT_DECAY, solver.MOMENTUM = 0.005, 0.125, 0.5
    solver.ADAM_BETAS = (0.5, 0.75)
    resumed, after = _train(cfg, resume=True)
    assert resumed.start_iter == 3
    assert after[:2] == [rate / 2 for rate in before[3:]]  # half the rate, at once
    assert after[2] == pytest.approx(0.0005)  # past the step
    group = resumed.optimizer.param_groups[0]
    assert group["weight_decay"] == 0.125
    if optimizer == "SGD":
        assert group["momentum"] == 0.5
    else:
        assert tuple(group["betas"]) == (0.5, 0.75)
    assert resumed.scheduler.base_lrs == [0.005]


def test_the_rates_of_another_kind_of_schedule_are_continued(cfg, monkeypatch):
    """Each is computed from the one before."""
    build = staticmethod(lambda cfg, x: torch.optim.lr_scheduler.ExponentialLR(x, 0.5))
    monkeypatch.setattr(ToyTrainer, "build_lr_scheduler", build)
    _train(cfg, stop_at=5)
    _, rates = _train(cfg, resume=True)
    assert rates == [0.01 / 2**k for k in (3, 4, 5)]


def test_without_resume_a_run_starts_over(cfg):
    _train(cfg, stop_at=5)
    trainer, rates = _train(cfg)
    assert trainer.start_iter == 0 and len(rates) == 6


def test_resumed_data_follow_another_seed_but_a_reproducible_one(cfg):
    seeds = []

    class Recording(ToyTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            seeds.append(torch.initial_seed())
            return super().build_train_loader(cfg)

    _train(cfg, stop_at=5)
    for _ in range(2):
        torch.manual_seed(cfg.SEED)
        Recording(cfg).resume_or_load(resume=True)
    first, resumed, again, resumed_again = seeds
    assert first == again and resumed == resumed_again and resumed != first


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(squares, monkeypatch):
    """Data, augmentation and dropout included."""
    monkeypatch.chdir(squares)
    options = ["SEED", "5", "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "2"]
    options += ["MODEL.SparseRCNN.DROPOUT", "0.1", "INPUT.MIN_SIZE_TRAIN", "(48, 56, 64)"]

    def train(folder, resume=False, stop_at=None):
        cfg = load_config("tiny.yaml", [*options, "OUTPUT_DIR", str(squares / folder)])
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        seed_all_rng(cfg.SEED)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume)
        run_step = trainer.run_step

        def step():
            if trainer.iter == stop_at:
                raise KeyboardInterrupt
            run_step()

        trainer.run_step = step
        with contextlib.nullcontext() if stop_at is None else pytest.raises(KeyboardInterrupt):
            trainer.train()
        return trainer.model.state_dict()

    whole = train("whole")
    train("parts", stop_at=3)
    torch.rand(7)  # the generators are elsewhere in another process
    resumed = train("parts", resume=True)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_checkpoint_holds_the_class_names_and_loads_without_trust(cfg, tmp_path):
    _train(cfg)
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert content["meta"]["thing_classes"] == ["bolt", "nut"]
    assert set(content["trainer"]["_trainer"]) >= {"iteration", "optimizer"}
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_run_killed_before_its_final_checkpoint_gets_it_by_resuming(cfg, tmp_path):
    _train(cfg)
    path = tmp_path / "model_final.pth"
    final = torch.load(path, weights_only=True)["model"]
    path.unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    _train(cfg, resume=True)
    completed = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(completed[name], final[name]) for name in final)


@pytest.mark.parametrize("schedule", ["WarmupCosineLR", "WarmupMultiStepLR", "WarmupPolyLR"])
def test_a_schedule_shorter_than_what_is_done_is_refused(cfg, tmp_path, schedule):
    cfg.SOLVER.LR_SCHEDULER_NAME = schedule
    _train(cfg, stop_at=5)  # with a checkpoint after 3 iterations
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 2, ()
    with pytest.raises(ConfigError, match=r"3 iterations.*schedule has 2.*MAX_ITER.*OUTPUT_DIR"):
        _train(cfg, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    cfg.SOLVER.MAX_ITER = 3
    trainer, rates = _train(cfg, resume=True)
    assert not rates and trainer.iter == 3


def test_the_evaluation_at_the_end_of_a_run_that_is_made_longer_is_kept(cfg, tmp_path):
    cfg.TEST.EVAL_PERIOD = 3
    _train(cfg, results=[10.0, 20.0])
    _train(cfg, resume=True, results=[20.0])  # ends again as it had
    assert [x["iteration"] for x in _metrics(tmp_path)] == [2, 5, 6]
    cfg.SOLVER.MAX_ITER = 9
    _train(cfg, resume=True, stop_at=7)
    _train(cfg, resume=True, results=[30.0])
    rows = [(x["iteration"], x.get("bbox/AP")) for x in read_metrics(tmp_path)]
    assert rows == [(2, 10.0), (5, 20.0), (8, None), (9, 30.0)]


def test_a_checkpoint_without_optimizer_still_resumes(cfg, tmp_path, caplog):
    _train(cfg, stop_at=5)
    path = tmp_path / (tmp_path / "last_checkpoint").read_text()
    content = torch.load(path, weights_only=True)
    del content["trainer"]["_trainer"]  # as detectron2 0.6 writes it
    torch.save(content, path)
    trainer, _ = _train(cfg, resume=True)
    assert trainer.start_iter == 3
    assert "holds no optimizer" in caplog.text


def _best(folder):
    content = torch.load(folder / "model_best.pth", weights_only=True)
    record = json.loads((folder / "model_best.json").read_text())
    assert content["trainer"]["iteration"] == record["iteration"]
    return record["iteration"], record["value"]


def test_the_best_checkpoint_is_kept(cfg, tmp_path):
    cfg.TEST.EVAL_PERIOD = 2
    _train(cfg, results=[10.0, 30.0, 20.0])
    assert _best(tmp_path) == (3, 30.0)
    # It is not what --resume starts from.
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_the_best_is_remembered_across_a_resume(cfg, tmp_path):
    cfg.TEST.EVAL_PERIOD = 2
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    # The checkpoint that is resumed from was written before its own iteration's evaluation.
    _train(cfg, results=[50.0], stop_at=3)
    _train(cfg, resume=True, results=[40.0, 45.0])
    assert _best(tmp_path) == (1, 50.0)
    _train(cfg, results=[1.0, 2.0, 1.5])  # a new run in the same folder is not held to it
    assert _best(tmp_path) == (3, 2.0)


def test_the_last_evaluation_can_be_the_best_and_nan_is_never(cfg, tmp_path):
    cfg.TEST.EVAL_PERIOD = 3
    _train(cfg, results=[float("nan"), 5.0])
    assert _best(tmp_path) == (5, 5.0)


@pytest.mark.parametrize("metric, best", [("bbox/MR", (3, 40.0)), ("bbox/JI", (5, 60.0))])
def test_the_lowest_miss_rate_is_the_best(cfg, tmp_path, metric, best):
    results = [{"MR": 50.0, "JI": 50.0}, {"MR": 40.0, "JI": 55.0}, {"MR": 45.0, "JI": 60.0}]

    class Scripted(ToyTrainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            return {"bbox": results.pop(0)}

    cfg.TEST.EVAL_PERIOD = 2
    cfg.TEST.BEST_METRIC = metric
    Scripted(cfg).train()
    assert _best(tmp_path) == best


def test_the_best_of_several_test_sets_is_the_first_ones(cfg, tmp_path):
    class TwoSets(ToyTrainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            return {name: {"bbox": {"AP": len(name)}} for name in cfg.DATASETS.TEST}

    cfg.DATASETS.TEST = ("coco:a.json@images", "longer_than_the_first_one")
    TwoSets(cfg).train()
    assert _best(tmp_path)[1] == len("coco:a.json@images")


def test_the_metric_of_before_is_not_taken_for_that_of_a_resumed_run(cfg, tmp_path):
    """With a second test set it has another name."""

    class TwoSets(ToyTrainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            return {name: {"bbox": {"AP": 60.0}} for name in cfg.DATASETS.TEST}

    cfg.TEST.EVAL_PERIOD = 2
    _train(cfg, results=[50.0], stop_at=3)
    cfg.DATASETS.TEST = ("toy_val", "another")
    resumed = TwoSets(cfg)
    resumed.resume_or_load(resume=True)
    resumed.train()
    assert _best(tmp_path) == (3, 60.0)


def test_a_metric_that_is_not_there_is_a_warning_with_those_that_are(cfg, tmp_path, caplog):
    cfg.TEST.BEST_METRIC = "segm/AP"
    _train(cfg)
    assert "no segm/AP" in caplog.text and "bbox/AP" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()


def test_no_best_checkpoint_on_request(cfg, tmp_path):
    cfg.TEST.BEST_METRIC = ""
    _train(cfg)
    assert not (tmp_path / "model_best.pth").exists()


def test_results_and_metrics(cfg, tmp_path):
    trainer, _ = _train(cfg, results=[12.0])
    assert trainer._last_eval_results == {"bbox": {"AP": 12.0}}
    logged = {}
    for line in _metrics(tmp_path):
        logged.update(line)
    assert {"total_loss", "grad_norm", "lr", "data_time", "bbox/AP"} <= set(logged)


def test_the_average_is_evaluated_saved_and_resumed(cfg, tmp_path):
    cfg.SOLVER.EMA.ENABLED = True
    cfg.SOLVER.EMA.DECAY, cfg.SOLVER.EMA.WARMUP = 0.5, 1.0
    cfg.TEST.EVAL_PERIOD = 2
    seen = []

    class Watched(ToyTrainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            seen.append(model.layer.weight.detach().clone())
            return {"bbox": {"AP": 0.0}}

    def train(folder, resume=False, stop_at=None):
        """Weights after each step, and the trainer."""
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        seen.clear()
        trainer = Watched(cfg)
        trainer.resume_or_load(resume=resume)
        run_step, weights = trainer.run_step, []

        def step():
            if trainer.iter == stop_at:
                raise KeyboardInterrupt
            run_step()
            weights.append(trainer.model.layer.weight.detach().clone())

        trainer.run_step = step
        with contextlib.nullcontext() if stop_at is None else pytest.raises(KeyboardInterrupt):
            trainer.train()
        return weights, trainer

    weights, whole = train("whole")
    averages = [weights[0]]
    for value in weights[1:]:
        averages.append((averages[-1] + value) / 2)
    # At the evaluations after 2, 4 and 6 steps: the weights themselves, then their average.
    expected = [x[i] for i in (1, 3, 5) for x in (weights, averages)]
    for actual, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(actual, wanted)
    final = torch.load(tmp_path / "whole" / "model_final.pth", weights_only=True)
    torch.testing.assert_close(final["model"]["layer.weight"], averages[-1])
    assert torch.equal(final["ema"]["weights"]["layer.weight"], weights[-1])
    assert whole._last_eval_results == {"bbox": {"AP": 0.0}, "bbox_raw": {"AP": 0.0}}

    train("parts", stop_at=5)
    resumed = train("parts", resume=True)[1]
    assert resumed.start_iter == 4 and resumed.average.num_updates == 6
    assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)
    with resumed.average.applied(), whole.average.applied():
        assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)


def test_the_best_is_the_better_of_average_and_weights(cfg, tmp_path):
    cfg.SOLVER.EMA.ENABLED = True
    cfg.SOLVER.EMA.START_ITER = 2
    cfg.TEST.EVAL_PERIOD = 2
    # After 2 steps there is no average; then the weights themselves come first.
    trainer, _ = _train(cfg, results=[10.0, 30.0, 20.0, 5.0, 25.0])
    assert _best(tmp_path) == (3, 30.0)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["ema"]["holds"] == "averaged"
    assert trainer._last_eval_results == {"bbox": {"AP": 25.0}, "bbox_raw": {"AP": 5.0}}
    _train(cfg, results=[10.0, 30.0, 40.0, 5.0, 25.0])
    assert _best(tmp_path) == (3, 40.0)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["ema"]["holds"] == "raw"


def test_the_average_of_several_test_sets(cfg, tmp_path):
    class TwoSets(ToyTrainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            return {name: {"bbox": {"AP": len(name)}} for name in cfg.DATASETS.TEST}

    cfg.SOLVER.EMA.ENABLED = True
    cfg.DATASETS.TEST = ("one", "another")
    results = TwoSets(cfg).train()
    assert results["one"] == {"bbox": {"AP": 3}, "bbox_raw": {"AP": 3}}
    assert _best(tmp_path) == (5, 3)


def test_the_average_counts_optimizer_steps(cfg):
    cfg.SOLVER.EMA.ENABLED = True
    cfg.SOLVER.ACCUMULATE_STEPS = 3
    cfg.SOLVER.SKIP_NON_FINITE = True

    class Failing(ToyTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            good, bad = torch.tensor([1.0, 2.0]), torch.tensor([math.nan, 0.0])
            batches = [[{"value": x, "file_name": "toy.jpg"}] for x in [good] * 5 + [bad]]
            return itertools.cycle(batches)

    trainer = Failing(cfg)
    trainer.train()
    assert trainer.average.num_updates == 3  # every second iteration is left out


def _with_patience(cfg, patience=2):
    cfg.SOLVER.PATIENCE = patience
    cfg.SOLVER.MAX_ITER = 20
    cfg.TEST.EVAL_PERIOD = cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.TEST.AUG.ENABLED = True
    return cfg


class Augmented(ToyTrainer):
    """Its test-time augmentation is counted, not done."""

    augmented = ()

    @classmethod
    def test_with_TTA(cls, cfg, model):  # noqa: N802
        cls.augmented.append(1)
        return {"bbox_TTA": {"AP": 3.0}}


def test_a_run_out_of_patience_ends_like_any_other(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(Augmented, "augmented", [])
    Augmented.results = [10.0, 30.0, 20.0, 25.0, 99.0]
    trainer = Augmented(_with_patience(cfg))
    assert trainer.train() == {"bbox": {"AP": 25.0}}
    assert Augmented.results == [99.0]  # the end does not evaluate again
    assert len(Augmented.augmented) == 1
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["trainer"]["iteration"] == 7 and _best(tmp_path) == (3, 30.0)
    last = _metrics(tmp_path)[-1]
    # As detectron2 counts what comes after the last iteration.
    assert (last["iteration"], last["bbox/AP"], last["bbox_TTA/AP"]) == (8, 25.0, 3.0)


def test_a_resumed_run_is_as_patient_as_without_interruption(cfg, tmp_path):
    cfg = _with_patience(cfg)
    cfg.TEST.AUG.ENABLED = False
    _train(cfg, results=[30.0, 20.0], stop_at=5)
    _, rates = _train(cfg, resume=True, results=[25.0, 99.0])
    assert len(rates) == 2  # iterations 4 and 5, and the second evaluation without a better one
    before = torch.load(tmp_path / "model_final.pth", weights_only=True)
    trainer, rates = _train(cfg, resume=True, results=[25.0])
    assert not rates and trainer.max_iter == 6  # it stays stopped
    after = torch.load(tmp_path / "model_final.pth", weights_only=True)
    losses = [x["trainer"]["hooks"]["MetricsWriter"]["total_loss"] for x in (before, after)]
    assert losses[0] == losses[1] and len(losses[0][1]) == 6
    cfg.SOLVER.PATIENCE = 3
    _, rates = _train(cfg, resume=True, results=[50.0, 1.0, 1.0, 1.0])
    assert len(rates) == 8 and _best(tmp_path) == (7, 50.0)
    evaluations = {x["iteration"]: x.get("bbox/AP") for x in read_metrics(tmp_path)}
    assert evaluations == {1: 30.0, 3: 20.0, 5: 25.0, 7: 50.0, 9: 1.0, 11: 1.0, 13: None, 14: 1.0}


def test_scaling_to_the_workers_happens_in_the_trainer(cfg):
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 2
    cfg.SOLVER.ACCUMULATE_STEPS = 2
    cfg.SOLVER.IMS_PER_BATCH = 4
    trainer = ToyTrainer(cfg)
    assert trainer.cfg.SOLVER.IMS_PER_BATCH == 2 and trainer.max_iter == 6
    assert trainer._trainer.accumulate_steps == 2


def test_a_non_finite_loss_ends_the_run_and_leaves_the_checkpoint(cfg, tmp_path):
    trainer = ToyTrainer(cfg)
    run_step = trainer.run_step

    def step():
        if trainer.iter == 4:
            trainer.model.layer.weight.data.fill_(float("nan"))
        run_step()

    trainer.run_step = step
    with pytest.raises(FloatingPointError, match="iteration 4: loss_toy on worker 0.*toy.jpg"):
        trainer.train()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert (tmp_path / "non_finite" / "iteration_0000004_rank_0.pth").is_file()


def test_augmented_testing_marks_its_tasks(cfg, monkeypatch):
    cfg.MODEL.META_ARCHITECTURE = "SparseRCNN"
    calls = []

    class Augmented(Trainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            calls.append((model, cfg.OUTPUT_DIR))
            results = OrderedDict((name, {"bbox": {"AP": 1.0}}) for name in cfg.DATASETS.TEST)
            return results["toy_val"] if len(results) == 1 else results

    monkeypatch.setattr("sparsercnn.engine.trainer.SparseRCNNWithTTA", lambda cfg, model: "TTA")
    assert Augmented.test_with_TTA(cfg, None) == {"bbox_TTA": {"AP": 1.0}}
    assert calls == [("TTA", f"{cfg.OUTPUT_DIR}/TTA")]
    cfg.DATASETS.TEST = ("toy_val", "other")
    assert Augmented.test_with_TTA(cfg, None)["other"] == {"bbox_TTA": {"AP": 1.0}}
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    with pytest.raises(ValueError, match=r"TEST\.AUG\.ENABLED.*TEST\.SEM_SEG\.SCALES"):
        Augmented.test_with_TTA(cfg, None)


def test_several_test_sets_write_to_folders_of_their_own(cfg, monkeypatch):
    monkeypatch.setattr("sparsercnn.engine.trainer.build_evaluator", lambda *args: args[2])
    assert Trainer.build_evaluator(cfg, "toy_val") == f"{cfg.OUTPUT_DIR}/inference"
    cfg.DATASETS.TEST = ("toy_val", "coco:/a/b.json@c")
    folders = [Trainer.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
    assert folders == [f"{cfg.OUTPUT_DIR}/inference/{x}" for x in ("toy_val", "coco_a_b.json_c")]


def test_activation_checkpointing_by_key(tiny_cfg):
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINT.HEAD = True
    plain_forwards = [type(m.forward) for m in Trainer.build_model(tiny_cfg).backbone.modules()]
    model = Trainer.build_model(tiny_cfg)
    assert [type(m.forward) for m in model.backbone.modules()] == plain_forwards
    assert any("Checkpointed" in type(m.forward).__name__ for m in model.head.modules())


def test_channels_last_changes_neither_training_nor_checkpoints(squares, monkeypatch):
    monkeypatch.chdir(squares)
    options = ["SEED", "5", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.BASE_LR", "1e-6"]
    options += ["TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()"]

    def train(folder, channels_last, iterations, resume=False):
        changes = ["MODEL.CHANNELS_LAST", str(channels_last), "SOLVER.MAX_ITER", str(iterations)]
        cfg = load_config("tiny.yaml", [*options, *changes, "OUTPUT_DIR", str(squares / folder)])
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        seed_all_rng(cfg.SEED)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume)
        for parameter, state in trainer.optimizer.state.items():
            # What a fused kernel pairs, see test_solver.py.
            assert state["exp_avg"].stride() == parameter.stride()
        trainer.train()
        weight = trainer.model.backbone.bottom_up.res3[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        return torch.load(squares / folder / "model_final.pth", weights_only=True)

    plain = train("plain", False, 4)
    train("mixed", False, 2)
    mixed = train("mixed", True, 4, resume=True)
    assert list(mixed["model"]) == list(plain["model"])
    for name, value in mixed["model"].items():
        assert value.is_contiguous()
        if "running_" not in name:  # a mean of few values near 0 has few digits
            # AdamW moves even a weight whose gradient is rounding alone, by the rate each time.
            torch.testing.assert_close(value, plain["model"][name], rtol=0, atol=1e-5, msg=name)
    moments = mixed["trainer"]["_trainer"]["optimizer"]["state"].values()
    assert all(value.is_contiguous() for state in moments for value in state.values())


@pytest.mark.parametrize("form", ["polygon", "bitmask"])
def test_masks_are_trained_and_evaluated(squares, monkeypatch, form):
    """From polygons, or from run lengths and polygons."""
    monkeypatch.chdir(squares)
    content = json.loads((squares / "squares.json").read_text())
    for x in content["annotations"]:
        left, top, width, height = x["bbox"]
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        x["segmentation"] = [corners]
        if form == "bitmask" and x["id"] % 2:
            x["segmentation"] = mask_util.frPyObjects([corners], 64, 64)[0]
            x["segmentation"]["counts"] = x["segmentation"]["counts"].decode()
    (squares / "squares.json").write_text(json.dumps(content))
    options = ["MODEL.MASK_ON", "True", "INPUT.MASK_FORMAT", form, "OUTPUT_DIR", str(squares)]
    options += ["MODEL.SparseRCNN.MASK.CONV_DIM", "8", "SOLVER.ACCUMULATE_STEPS", "2"]
    cfg = load_config("tiny.yaml", options)
    seed_all_rng(1)
    trainer = Trainer(cfg)
    before = trainer.model.mask_branch.mask_head[1].predictor.weight.clone()
    trainer.train()
    latest = trainer.storage.latest()
    assert {"loss_mask", "loss_mask_0", "bbox/AP", "segm/AP"} <= latest.keys()
    assert math.isfinite(latest["segm/AP"][0])
    assert not torch.equal(trainer.model.mask_branch.mask_head[1].predictor.weight, before)


def test_a_schedule_in_epochs(squares, monkeypatch):
    monkeypatch.chdir(squares)
    options = {"SOLVER.EPOCHS": 1.5, "TEST.EVAL_EPOCHS": 1, "SOLVER.WARMUP_FRACTION": 0.1}
    cfg = load_config("tiny.yaml", [str(x) for pair in options.items() for x in pair])
    trainer = Trainer(cfg)  # four images, two per iteration
    assert trainer.max_iter == trainer.cfg.SOLVER.MAX_ITER == 3
    assert trainer.cfg.TEST.EVAL_PERIOD == 2
    assert trainer.checkpointer.metadata["config_yaml"] == cfg.dump()  # of any data


def test_compilation_by_key(tiny_cfg, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "sparsercnn.engine.trainer.compile_for_training",
        lambda model, blockwise: calls.append(blockwise),
    )
    Trainer.build_model(tiny_cfg)
    assert calls == []
    tiny_cfg.SOLVER.COMPILE = True
    Trainer.build_model(tiny_cfg)
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINT.BACKBONE = True
    Trainer.build_model(tiny_cfg)
    assert calls == [False, True]


def test_evaluation_needs_nothing_that_training_alone_needs(squares, monkeypatch):
    """Here, neither a compiler nor the names of what was frozen."""
    monkeypatch.chdir(squares)

    def refuse(*_, **__):
        raise RuntimeError("there is no compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    options = ["SOLVER.COMPILE", "True", "MODEL.FREEZE", "['nothing']", "MODEL.CHANNELS_LAST"]
    cfg = load_config("tiny.yaml", [*options, "True", "MODEL.WEIGHTS", "model.pth"])
    model = Trainer.build_for_evaluation(cfg)
    weight = model.backbone.bottom_up.res3[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.save({"model": model.state_dict()}, "model.pth")
    assert "AP" in evaluate(cfg)["bbox"]


@pytest.fixture
def segmentor_cfg(tmp_path, repository):
    """The quickstart's model with few channels, on four images of two halves."""
    for stem in "abcd":
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
        labels = np.zeros((32, 48), dtype=np.uint8)
        labels[:, 24:] = 1
        labels[:2] = 255
        pixels = np.where(labels[..., None] == 1, 200, 30).repeat(3, 2).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{stem}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{stem}.png")
    (tmp_path / "classes.txt").write_text("left\nright\nnowhere\n")
    entry = f"semseg:{tmp_path}/images@{tmp_path}/labels"
    options = {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
        "DATASETS.TRAIN": (entry,),
        "DATASETS.TEST": (entry,),
        "SOLVER.MAX_ITER": 30,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.BASE_LR": 0.01,
        "SOLVER.IMS_PER_BATCH": 4,
        "INPUT.MIN_SIZE_TRAIN": (32,),
        "INPUT.MIN_SIZE_TEST": 32,
        "INPUT.RANDOM_FLIP": "none",
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(tmp_path / "out"),
        "SEED": 1,
    }
    flat = [x for pair in options.items() for x in pair]
    yield load_config(str(repository / "configs/quickstart/danet.yaml"), flat)
    DatasetCatalog.remove(entry)
    MetadataCatalog.remove(entry)


def test_a_segmentor_learns_and_is_evaluated(segmentor_cfg, tmp_path):
    trainer = Trainer(segmentor_cfg)
    trainer.resume_or_load(resume=False)
    metrics = trainer.train()["sem_seg"]
    assert metrics["pACC"] > 90 and metrics["IoU-left"] > 80 and metrics["IoU-right"] > 80
    assert math.isnan(metrics["ACC-nowhere"])
    assert (tmp_path / "out" / "model_best.pth").exists()

    evaluated = Trainer.test(segmentor_cfg, trainer.model)["sem_seg"]
    assert evaluated == pytest.approx(metrics, nan_ok=True)


def test_evaluation_of_segmentors_follows_the_key(segmentor_cfg, monkeypatch):
    calls = []
    forward = SemSegInference.forward
    monkeypatch.setattr(
        SemSegInference, "forward", lambda self, x: calls.append(len(x)) or forward(self, x)
    )
    torch.manual_seed(0)
    model = Trainer.build_model(segmentor_cfg).eval()
    Trainer.test(segmentor_cfg, model)
    assert not calls
    cfg = segmentor_cfg.clone()
    cfg.defrost()
    cfg.TEST.SEM_SEG.FLIP, cfg.TEST.SEM_SEG.CROP_SIZE = True, (24, 24)
    metrics = Trainer.test(cfg, model)["sem_seg"]
    assert calls == [1] * 4 and 0 <= metrics["mIoU"] <= 100
    assert not model.training

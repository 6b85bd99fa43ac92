import pytest
from detectron2.modeling import build_model

from sparsercnn.analysis import make_batch
from sparsercnn.benchmark.passes import (
    InferencePass,
    TrainingPass,
    build_for_inference,
    build_for_training,
)

STAGE_PARTS = {"pooling", "attention", "interaction", "rest of stage"}
DETECTOR_PARTS = {"preprocessing", "backbone", "neck", "proposals", "other"} | STAGE_PARTS
STEP_PARTS = {"backward", "gradient norm", "optimizer"}


def _check(timed, expected, num_stages):
    whole, parts, stages = timed
    assert expected <= set(parts)
    assert all(seconds > 0 for seconds in parts.values())
    assert sum(parts.values()) == pytest.approx(whole)
    assert len(stages) == num_stages
    for stage in stages:
        assert set(stage) == STAGE_PARTS
    for part in STAGE_PARTS if stages else ():
        assert sum(stage[part] for stage in stages) == pytest.approx(parts[part])


def test_parts_of_a_detector(tiny_cfg):
    tiny_cfg.OUTPUT_DIR = ""
    batch = make_batch((64, 64), 2)
    inference = InferencePass(build_for_inference(tiny_cfg), batch)
    _check(inference.time_parts(), DETECTOR_PARTS | {"post-processing"}, num_stages=2)
    training = TrainingPass(tiny_cfg, build_for_training(tiny_cfg), batch)
    clip_gradients = training.step.clip_gradients
    expected = DETECTOR_PARTS | STEP_PARTS | {"criterion", "matcher"}
    for _ in range(2):
        _check(training.time_parts(), expected, num_stages=2)
    assert training.step.clip_gradients is clip_gradients


def test_recomputed_activations_belong_to_the_backward_pass(tiny_cfg):
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINT.HEAD = True
    tiny_cfg.OUTPUT_DIR = ""
    training = TrainingPass(tiny_cfg, build_for_training(tiny_cfg), make_batch((64, 64)))
    _check(training.time_parts(), DETECTOR_PARTS | STEP_PARTS, num_stages=2)


def test_parts_of_a_segmentor_are_those_that_there_are(danet_cfg):
    danet_cfg.OUTPUT_DIR = ""
    batch = make_batch((64, 64), 2)
    model = build_for_inference(danet_cfg)
    _check(InferencePass(model, batch).time_parts(), {"backbone", "sem seg head"}, num_stages=0)
    training = TrainingPass(danet_cfg, build_for_training(danet_cfg), batch)
    _check(training.time_parts(), {"backbone", "sem seg head"} | STEP_PARTS, num_stages=0)


def test_a_step_changes_no_weight(tiny_cfg):
    tiny_cfg.OUTPUT_DIR = ""
    model = build_for_training(tiny_cfg)
    before = [p.detach().clone() for p in model.parameters()]
    TrainingPass(tiny_cfg, model, make_batch((64, 64)))()
    assert all(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_the_models_are_those_of_evaluation_and_training(tiny_cfg):
    assert not build_for_inference(tiny_cfg).training
    assert build_for_training(tiny_cfg).training
    tiny_cfg.TEST.OPTIMIZE = "none"
    plain = build_model(tiny_cfg).state_dict()
    assert plain.keys() == build_for_inference(tiny_cfg).state_dict().keys()
    tiny_cfg.TEST.OPTIMIZE = "fuse"
    assert build_for_inference(tiny_cfg).backbone.bottom_up.stem.conv1.norm is None

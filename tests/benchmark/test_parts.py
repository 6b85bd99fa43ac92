import time

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from sparsercnn.analysis import make_batch
from sparsercnn.benchmark.parts import PartTimer
from sparsercnn.benchmark.passes import (
    InferencePass,
    TrainingPass,
    build_for_inference,
    build_for_training,
)

STAGE_PARTS = {"pooling", "attention", "interaction", "rest of stage"}


@pytest.fixture
def clock(monkeypatch):
    """A clock of whole seconds that is moved by hand, in place of the processor's."""

    class Clock:
        now = 0

        def work(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(time, "process_time", lambda: clock.now)
    return clock


class Work(nn.Module):
    """Lets time pass, before what is inside of it and after."""

    def __init__(self, clock, before, after=0, **inside):
        super().__init__()
        self.clock, self.before, self.after = clock, before, after
        for name, module in inside.items():
            self.add_module(name, module)

    def forward(self):
        self.clock.work(self.before)
        for module in self.children():
            module()
        self.clock.work(self.after)


def test_time_goes_to_the_innermost_part(clock):
    backbone = Work(clock, 10, 1, bottom_up=Work(clock, 30))
    stages = nn.ModuleList(
        Work(clock, 2, 100 * i, self_attn=Work(clock, 3), inst_interact=Work(clock, 4))
        for i in (1, 2)
    )
    pooler = Work(clock, 7)

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.box_pooler, self.head_series = pooler, stages

        def forward(self):
            for stage in self.head_series:
                self.box_pooler()
                stage()
            clock.work(1000)

    model = Work(clock, 5, 6, backbone=backbone, head=Head())
    timer = PartTimer("cpu")
    with timer.watch(model), timer.span("other"):
        model()
        clock.work(50)
    whole, parts, stage_parts = timer.seconds(is_inference=True)
    assert parts == {
        "preprocessing": 5,
        "backbone": 30,
        "neck": 11,
        "pooling": 14,
        "attention": 6,
        "interaction": 8,
        "rest of stage": 304,
        # What follows the last part: of the head, of the model.
        "post-processing": 1006,
        "other": 50,
    }
    assert whole == sum(parts.values())
    assert stage_parts == [
        {"pooling": 7, "attention": 3, "interaction": 4, "rest of stage": 102},
        {"pooling": 7, "attention": 3, "interaction": 4, "rest of stage": 202},
    ]
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in model.modules())
    assert "post-processing" not in timer.seconds(is_inference=False)[1]


def test_a_backbone_without_a_neck_is_all_backbone(clock):
    model = Work(clock, 0, backbone=Work(clock, 3, stem=Work(clock, 4)))
    timer = PartTimer("cpu")
    with timer.watch(model), timer.span("other"):
        model()
    assert timer.seconds(is_inference=True)[1]["backbone"] == 7


def test_modules_inside_of_a_compiled_one_are_not_touched():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential()
            self.backbone.bottom_up = nn.Linear(2, 2)
            self.proposals = nn.ReLU()

        def forward(self, x):
            return self.proposals(self.backbone(x))

    def measure(model, inner):
        timer = PartTimer("cpu")
        with timer.watch(model):
            assert not inner._forward_hooks
            assert model.proposals._forward_hooks
            with timer.span("other"):
                model(torch.ones(1, 2))
        return timer.seconds(is_inference=True)[1]

    model = Model()
    inner = model.backbone.bottom_up
    model.backbone = torch.compile(model.backbone, backend="eager")
    parts = measure(model, inner)
    assert parts["backbone"] > 0 and "neck" not in parts

    model = Model()
    model.backbone.compile(backend="eager")  # its hooks would be compiled with it
    parts = measure(model, model.backbone)
    assert parts["proposals"] > 0 and "backbone" not in parts


def test_the_gpu_is_timed_by_events_and_waited_for_once(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = len(log)
            log.append(stream)

        def elapsed_time(self, end):
            assert log[-1] == "waited"
            return 1000.0 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("waited"))
    timer = PartTimer("cuda:1")
    model = nn.Sequential()
    model.proposals = nn.ReLU()
    with timer.watch(model), timer.span("other"):
        model(torch.ones(1))
    # Marks 0 to 5: begin of the whole, of forward, of the proposals, and their ends.
    whole, parts, _ = timer.seconds(is_inference=True)
    assert log == ["stream of cuda:1"] * 6 + ["waited"]
    assert whole == 5
    assert parts == {"other": 2, "preprocessing": 1, "proposals": 1, "post-processing": 1}


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


DETECTOR_PARTS = {"preprocessing", "backbone", "neck", "proposals", "other"} | STAGE_PARTS
STEP_PARTS = {"backward", "gradient norm", "optimizer"}


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
    plain = build_model(tiny_cfg).state_dict()
    assert plain.keys() == build_for_inference(tiny_cfg).state_dict().keys()

import time

import pytest
import torch
from torch import nn

from sparsercnn.benchmark.parts import PartTimer


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


def test_masks_are_a_part_of_their_own(clock):
    """In training they are called by the criterion, which is without them."""
    branch = Work(clock, 0, mask_head=nn.ModuleList([Work(clock, 20)]))

    class Criterion(nn.Module):
        def forward(self):
            clock.work(3)
            branch.mask_head[0]()

    model = Work(clock, 1, criterion=Criterion())
    model.add_module("mask_branch", branch)
    branch.forward = lambda: None
    timer = PartTimer("cpu")
    with timer.watch(model), timer.span("other"):
        model()
    _, parts, _ = timer.seconds(is_inference=False)
    assert parts["masks"] == 20 and parts["criterion"] == 3


def test_what_the_backward_pass_recomputes_belongs_to_it(clock):
    model = Work(clock, 0, backbone=Work(clock, 3))
    timer = PartTimer("cpu")
    with timer.watch(model), timer.span("other"):
        model()
        with timer.span("backward"):
            model.backbone()
    parts = timer.seconds(is_inference=False)[1]
    assert (parts["backbone"], parts["backward"]) == (3, 3)


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

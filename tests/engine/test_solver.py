import math

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from sparsercnn import add_sparsercnn_config
from sparsercnn.engine.param_groups import build_param_groups
from sparsercnn.engine.solver import (
    build_gradient_clipper,
    build_lr_scheduler,
    build_optimizer,
    match_memory_format,
    scale_for_workers,
)


class Model(nn.Module):
    """A backbone with a norm, and a head with attention, whose biases have two names."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.backbone_like = nn.Linear(2, 2)  # in the head, despite its name
        self.attention = nn.MultiheadAttention(4, 1)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.WEIGHT_DECAY = 0.1
    return cfg


def _settings(model, groups):
    """Name of each trainable parameter -> (learning rate, weight decay)."""
    names = {id(p): name for name, p in model.named_parameters()}
    listed = [(names[id(p)], g["lr"], g["weight_decay"]) for g in groups for p in g["params"]]
    assert len({name for name, *_ in listed}) == len(listed)
    return {name: (lr, decay) for name, lr, decay in listed}


def test_everything_decays_by_default_in_one_group(cfg):
    model = Model()
    groups = build_param_groups(cfg, model)
    assert len(groups) == 1
    settings = _settings(model, groups)
    assert set(settings) == {name for name, _ in model.named_parameters()} - {"frozen"}
    assert set(settings.values()) == {(0.01, 0.1)}


def test_norms_and_biases_are_spared(cfg):
    cfg.SOLVER.NO_DECAY_NORM_BIAS = True
    model = Model()
    settings = _settings(model, build_param_groups(cfg, model))
    decays = {name: decay for name, (_, decay) in settings.items()}
    spared = {name for name, decay in decays.items() if decay == 0}
    assert spared == {
        "backbone.0.bias",
        "backbone.1.weight",
        "backbone.1.bias",
        "backbone_like.bias",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "norm.weight",
        "norm.bias",
    }
    assert {decays[name] for name in set(decays) - spared} == {0.1}


def test_backbone_multiplier_applies_to_the_backbone_alone(cfg):
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.NO_DECAY_NORM_BIAS = True
    model = Model()
    groups = build_param_groups(cfg, model)
    assert len(groups) == 4
    for name, (lr, _) in _settings(model, groups).items():
        assert lr == pytest.approx(0.001 if name.startswith("backbone.") else 0.01)


def test_group_order_is_the_same_in_another_process_run(cfg):
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.NO_DECAY_NORM_BIAS = True
    first, second = Model(), Model()
    listings = [
        list(_settings(model, build_param_groups(cfg, model)).items()) for model in (first, second)
    ]
    assert listings[0] == listings[1]


@pytest.mark.parametrize("name, expected", [("ADAMW", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizer_by_name(cfg, name, expected):
    cfg.SOLVER.OPTIMIZER = name
    cfg.SOLVER.MOMENTUM = 0.7
    cfg.SOLVER.ADAM_BETAS = (0.8, 0.9)
    optimizer = build_optimizer(cfg, Model())
    assert type(optimizer) is expected
    settings = optimizer.defaults
    assert settings.get("momentum", 0.7) == 0.7 and settings.get("betas", (0.8, 0.9)) == (0.8, 0.9)


def test_unknown_optimizer_and_clip_type_name_the_key(cfg):
    cfg.SOLVER.OPTIMIZER = "LION"
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER is 'LION'.*ADAMW or SGD"):
        build_optimizer(cfg, Model())
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full"
    for build in (build_optimizer, lambda cfg, _: build_gradient_clipper(cfg)):
        with pytest.raises(ValueError, match="CLIP_TYPE is 'full'.*full_model"):
            build(cfg, Model())


def _two_parameters():
    """Gradients (3, 0) and (0, 4): norm 5 together, 3 and 4 alone."""
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    return parameters


def test_full_model_clipping_keeps_the_direction(cfg):
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    parameters = _two_parameters()
    assert build_gradient_clipper(cfg)(parameters) == 5
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.0, 0.8]))


def test_without_clipping_the_norm_is_measured_and_the_gradient_left_alone(cfg):
    parameters = _two_parameters()
    assert build_gradient_clipper(cfg)(parameters) == 5
    assert parameters[0].grad.tolist() == [3, 0] and parameters[1].grad.tolist() == [0, 4]


def test_clipping_per_parameter_is_detectron2s(cfg):
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    model = nn.ParameterList(_two_parameters())
    for parameter, source in zip(model, _two_parameters(), strict=True):
        parameter.grad = source.grad
    build_optimizer(cfg, model).step()
    for parameter in model:
        assert parameter.grad.norm() == pytest.approx(1, abs=1e-5)


def _rates(cfg, iterations):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_warmup_and_steps(cfg):
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.MAX_ITER = 10
    cfg.SOLVER.STEPS = (6, 8, 10)  # the last one is at the end: no error, no effect
    cfg.SOLVER.WARMUP_ITERS = 4
    cfg.SOLVER.WARMUP_FACTOR = 0.2
    assert _rates(cfg, 10) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_steps_of_a_very_short_run_that_fall_together(cfg):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 5, (0, 4, 4), 0
    assert _rates(cfg, 5) == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.001])


def test_cosine_ends_at_the_given_rate(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.BASE_LR_END = 0.2
    cfg.SOLVER.MAX_ITER = 10
    cfg.SOLVER.WARMUP_ITERS = 0
    rates = _rates(cfg, 11)
    assert rates[0] == 1
    assert rates[5] == pytest.approx(0.6)  # half-way between
    assert rates[10] == pytest.approx(0.2)
    cfg.SOLVER.BASE_LR_END = 2.0
    with pytest.raises(ValueError, match="BASE_LR_END is 2.0"):
        _rates(cfg, 1)


@pytest.fixture
def poly_cfg(cfg):
    """Ten iterations, four of them warm-up; power 2, whose values are easily written down."""
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_POWER = 2.0
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.MAX_ITER = 10
    cfg.SOLVER.WARMUP_ITERS = 4
    cfg.SOLVER.WARMUP_FACTOR = 0.2
    return cfg


def test_polynomial_decay_by_hand(poly_cfg):
    warmup = [0.2 * 1.0, 0.4 * 0.81, 0.6 * 0.64, 0.8 * 0.49]
    assert _rates(poly_cfg, 10) == pytest.approx([*warmup, 0.36, 0.25, 0.16, 0.09, 0.04, 0.01])
    poly_cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.1
    assert _rates(poly_cfg, 10) == pytest.approx([*warmup, 0.36, 0.25, 0.16, 0.1, 0.1, 0.1])
    poly_cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    poly_cfg.SOLVER.WARMUP_ITERS = 0
    poly_cfg.SOLVER.POLY_LR_POWER = 0.9
    poly_cfg.SOLVER.BASE_LR = 0.01
    assert _rates(poly_cfg, 10) == pytest.approx([0.01 * (1 - i / 10) ** 0.9 for i in range(10)])


@pytest.mark.parametrize("ending", [0.0, 0.1])
@pytest.mark.parametrize("method", ["linear", "constant"])
def test_polynomial_decay_is_that_of_detectron2s_deeplab(poly_cfg, ending, method):
    deeplab = pytest.importorskip("detectron2.projects.deeplab.lr_scheduler")
    solver = poly_cfg.SOLVER
    solver.POLY_LR_POWER, solver.POLY_LR_CONSTANT_ENDING = 0.9, ending
    solver.MAX_ITER, solver.WARMUP_ITERS, solver.WARMUP_METHOD = 50, 7, method
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=solver.BASE_LR)
    scheduler = deeplab.WarmupPolyLR(
        optimizer, 50, 0.2, 7, method, power=0.9, constant_ending=ending
    )
    expected = []
    for _ in range(50):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert _rates(poly_cfg, 50) == pytest.approx(expected)


def test_polynomial_decay_of_a_scaled_run_is_the_same_curve(poly_cfg):
    poly_cfg.SOLVER.OPTIMIZER = "SGD"
    poly_cfg.SOLVER.IMS_PER_BATCH = poly_cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    scaled = scale_for_workers(poly_cfg, 4)  # kappa = 1/2
    assert [2 * rate for rate in _rates(scaled, 20)[::2]] == pytest.approx(_rates(poly_cfg, 10))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("POLY_LR_POWER", 0.0, "POLY_LR_POWER is 0.0; it must be above 0"),
        ("POLY_LR_CONSTANT_ENDING", 1.5, "POLY_LR_CONSTANT_ENDING is 1.5; .* between 0 and 1"),
    ],
)
def test_errors_of_the_polynomial_decay_name_the_key(poly_cfg, key, value, message):
    poly_cfg.SOLVER[key] = value
    with pytest.raises(ValueError, match=message):
        _rates(poly_cfg, 1)


def test_unknown_schedule_names_the_key(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "Poly"
    with pytest.raises(ValueError, match="SOLVER.LR_SCHEDULER_NAME is 'Poly'"):
        _rates(cfg, 1)


@pytest.fixture
def published(cfg):
    """The 3x schedule, made for 8 GPUs."""
    cfg.SOLVER.IMS_PER_BATCH = 16
    cfg.SOLVER.BASE_LR = 2.5e-5
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    cfg.SOLVER.MAX_ITER = 270000
    cfg.SOLVER.STEPS = (210000, 250000)
    cfg.SOLVER.WARMUP_ITERS = 1000
    cfg.SOLVER.CHECKPOINT_PERIOD = 5000
    cfg.TEST.EVAL_PERIOD = 7330
    cfg.MODEL.SparseRCNN.PROPOSALS.ANNEAL_ITERS = 3000
    cfg.SOLVER.EMA.DECAY = 0.9998
    cfg.SOLVER.EMA.START_ITER = 500
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    cfg.freeze()
    return cfg


def _check(cfg, **expected):
    for key, value in expected.items():
        assert cfg.SOLVER[key] == pytest.approx(value), key


def test_adamw_on_two_of_eight_workers_follows_the_square_root_rule(published):
    scaled = scale_for_workers(published, 2)  # kappa = 1/4
    _check(scaled, IMS_PER_BATCH=4, BASE_LR=1.25e-5, WEIGHT_DECAY=5e-5)
    _check(scaled, ADAM_BETAS=(0.975, 0.99975), ADAM_EPS=2e-8)
    _check(scaled, MAX_ITER=1080000, STEPS=(840000, 1000000), WARMUP_ITERS=4000)
    _check(scaled, CHECKPOINT_PERIOD=20000)
    assert scaled.TEST.EVAL_PERIOD == 29320
    assert scaled.MODEL.SparseRCNN.PROPOSALS.ANNEAL_ITERS == 12000
    # Four small steps forget as much as one big one.
    assert math.isclose(scaled.SOLVER.EMA.DECAY**4, 0.9998)
    assert scaled.SOLVER.EMA.START_ITER == 2000
    assert scaled.is_frozen()

    def decay_of_the_run(solver):
        return solver.BASE_LR * solver.WEIGHT_DECAY * solver.MAX_ITER

    def time_of_the_differential_equation(solver):
        return solver.BASE_LR**2 * solver.MAX_ITER

    for invariant in (decay_of_the_run, time_of_the_differential_equation):
        assert invariant(scaled.SOLVER) == pytest.approx(invariant(published.SOLVER))


def test_sgd_follows_the_linear_rule(published):
    cfg = published.clone()
    cfg.defrost()
    cfg.SOLVER.OPTIMIZER = "SGD"
    scaled = scale_for_workers(cfg, 2)
    _check(scaled, BASE_LR=2.5e-5 / 4, WEIGHT_DECAY=1e-4, MOMENTUM=0.9, MAX_ITER=1080000)


def test_accumulation_on_one_worker_gives_the_published_schedule(published):
    cfg = published.clone()
    cfg.defrost()
    cfg.SOLVER.ACCUMULATE_STEPS = 8
    scaled = scale_for_workers(cfg, 1)
    assert scaled.SOLVER.IMS_PER_BATCH == 2
    # Nothing else differs.
    scaled.SOLVER.IMS_PER_BATCH = 16
    scaled.SOLVER.REFERENCE_WORLD_SIZE = 8
    assert scaled == cfg


def test_more_images_than_the_reference(published):
    cfg = published.clone()
    cfg.defrost()
    cfg.SOLVER.ACCUMULATE_STEPS = 2
    scaled = scale_for_workers(cfg, 8)  # kappa = 2
    _check(scaled, IMS_PER_BATCH=16, BASE_LR=2.5e-5 * math.sqrt(2), MAX_ITER=135000)
    _check(scaled, ADAM_BETAS=(0.8, 0.998))
    assert scale_for_workers(published, 800).SOLVER.ADAM_BETAS[0] == 0  # kappa = 100


def test_scaling_happens_once_and_only_when_asked_for(published):
    scaled = scale_for_workers(published, 2)
    assert scale_for_workers(scaled, 2) is scaled
    assert published.SOLVER.BASE_LR == 2.5e-5
    cfg = published.clone()
    cfg.defrost()
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    assert scale_for_workers(cfg, 2) is cfg


def test_periods_keep_zero_and_never_become_zero(published):
    cfg = published.clone()
    cfg.defrost()
    cfg.TEST.EVAL_PERIOD = 0
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    scaled = scale_for_workers(cfg, 64)
    assert scaled.TEST.EVAL_PERIOD == 0 and scaled.SOLVER.CHECKPOINT_PERIOD == 1


def test_indivisible_batch_names_both_keys(published):
    cfg = published.clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 12.*REFERENCE_WORLD_SIZE 8"):
        scale_for_workers(cfg, 1)


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_one_kernel_updates_all_parameters(cfg, name):
    cfg.SOLVER.OPTIMIZER = name
    assert build_optimizer(cfg, Model()).defaults["fused"]


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_moments_of_another_memory_format_act_on_their_own_weights(cfg, name):
    """As from a checkpoint: without the conversion, fused kernels confuse them silently."""
    cfg.SOLVER.OPTIMIZER = name
    gradient = torch.randn(4, 3, 2, 2)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = nn.Conv2d(3, 4, 2, bias=False)
        nn.init.constant_(model.weight, 0.5)
        model.to(memory_format=memory_format)
        optimizer = build_optimizer(cfg, model)
        for step in range(2):
            model.weight.grad = gradient.clone().to(memory_format=memory_format)
            optimizer.step()
            if step == 0:
                state = optimizer.state_dict()
                for moments in state["state"].values():
                    moments.update({k: v.contiguous() for k, v in moments.items()})
                optimizer.load_state_dict(state)
                match_memory_format(optimizer)
        results.append(model.weight.detach())
    assert results[1].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*results)

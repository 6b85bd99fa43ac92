"""Optimizer, gradient clipping, learning-rate schedule, and their scaling to fewer workers."""

import logging
import math
from functools import partial

import torch
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
    PolynomialDecayParamScheduler,
)
from torch.nn.utils import clip_grad_norm_

from ..errors import ConfigError
from .param_groups import build_param_groups

__all__ = [
    "build_gradient_clipper",
    "build_lr_scheduler",
    "build_optimizer",
    "match_memory_format",
    "rate_factor",
    "scale_for_workers",
]

_CLIP_TYPES = ("full_model", "norm", "value")
_SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR")


def build_optimizer(cfg, model, new=()):
    """Build the optimizer named by SOLVER.OPTIMIZER over :func:`build_param_groups`.

    With CLIP_TYPE "norm" or "value", its `step` clips each parameter separately, as in detectron2.
    With "full_model" it does not clip: the norm is over all parameters and needs complete, unscaled
    gradients, so the training loop calls the result of :func:`build_gradient_clipper` instead.

    Args:
        cfg (CfgNode): the whole config.
        model (nn.Module): the model, not yet wrapped for distributed training.
        new (sequence[str]): see :func:`build_param_groups`.

    Raises:
        ConfigError: unknown SOLVER.OPTIMIZER or SOLVER.CLIP_GRADIENTS.CLIP_TYPE; or see
            :func:`build_param_groups`.
    """
    solver = cfg.SOLVER
    name = solver.OPTIMIZER.upper()
    if name == "ADAMW":
        optimizer_class = torch.optim.AdamW
        options = {"betas": tuple(solver.ADAM_BETAS), "eps": solver.ADAM_EPS}
    elif name == "SGD":
        optimizer_class = torch.optim.SGD
        options = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    else:
        raise ConfigError(f"SOLVER.OPTIMIZER is '{solver.OPTIMIZER}'; it must be ADAMW or SGD.")
    if _clip_type(cfg) in ("norm", "value"):
        optimizer_class = maybe_add_gradient_clipping(cfg, optimizer_class)
    return optimizer_class(
        build_param_groups(cfg, model, new),
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        # A single kernel updates all parameters; torch has it for these devices.
        fused=next(model.parameters()).device.type in ("cpu", "cuda"),
        **options,
    )


def match_memory_format(optimizer):
    """Lay out the optimizer's moments in memory as their weights, in place.

    A checkpoint's may be laid out otherwise, and fused kernels, which pair values by their place in
    memory, would silently give a value the moment of another.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            of_weights = torch.is_tensor(value) and value.shape == parameter.shape
            if of_weights and value.stride() != parameter.stride():
                moment = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
                state[name] = moment.copy_(value)


def build_gradient_clipper(cfg):
    """
    Returns:
        callable: takes the parameters, clips their gradients in place if CLIP_TYPE is "full_model"
        and enabled, and returns the norm of all gradients before clipping, a scalar on their
        device.

    Raises:
        ConfigError: unknown SOLVER.CLIP_GRADIENTS.CLIP_TYPE.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if _clip_type(cfg) == "full_model":
        return partial(clip_grad_norm_, max_norm=clip.CLIP_VALUE, norm_type=clip.NORM_TYPE)
    return partial(clip_grad_norm_, max_norm=math.inf)


def _clip_type(cfg):
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    if clip.CLIP_TYPE not in _CLIP_TYPES:
        raise ConfigError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{clip.CLIP_TYPE}'; it must be one of "
            f"{', '.join(_CLIP_TYPES)}."
        )
    return clip.CLIP_TYPE


def build_lr_scheduler(cfg, optimizer):
    """Build the schedule named by SOLVER.LR_SCHEDULER_NAME, with a warm-up.

    Schedules are detectron2's, with three additions: the cosine ends at SOLVER.BASE_LR_END, which
    detectron2 0.6 lacks; STEPS at 0, at or after MAX_ITER and, as in very short runs, for a second
    time at an iteration are ignored; and WarmupPolyLR, with the name and keys of detectron2's
    DeepLab project, is

        BASE_LR x warm-up x max((1 - iteration / MAX_ITER)^POLY_LR_POWER, POLY_LR_CONSTANT_ENDING).

    Returns:
        LRMultiplier: step it once per iteration.

    Raises:
        ConfigError: unknown SOLVER.LR_SCHEDULER_NAME, or a BASE_LR_END, POLY_LR_POWER or
            POLY_LR_CONSTANT_ENDING that the schedule reads is out of range.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME not in _SCHEDULERS:
        raise ConfigError(
            f"SOLVER.LR_SCHEDULER_NAME is '{solver.LR_SCHEDULER_NAME}'; it must be one of "
            f"{', '.join(_SCHEDULERS)}."
        )
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        cfg = cfg.clone()
        cfg.defrost()
        steps = {step for step in solver.STEPS if 0 < step < solver.MAX_ITER}
        cfg.SOLVER.STEPS = tuple(sorted(steps))
        return build_detectron2_lr_scheduler(cfg, optimizer)
    build = {"WarmupCosineLR": _cosine, "WarmupPolyLR": _WarmupPolynomial}[solver.LR_SCHEDULER_NAME]
    return LRMultiplier(optimizer, multiplier=build(solver), max_iter=solver.MAX_ITER)


def _cosine(solver):
    if not 0 <= solver.BASE_LR_END <= solver.BASE_LR:
        raise ConfigError(
            f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}; it must be between 0 and "
            f"SOLVER.BASE_LR, {solver.BASE_LR}."
        )
    return _after_warmup(solver, CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR))


def _after_warmup(solver, schedule):
    return WarmupParamScheduler(
        schedule,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
    )


class _WarmupPolynomial(ParamScheduler):
    """Product of warm-up and decay; detectron2's warm-up ends at the decay's value instead."""

    def __init__(self, solver):
        if solver.POLY_LR_POWER <= 0:
            raise ConfigError(
                f"SOLVER.POLY_LR_POWER is {solver.POLY_LR_POWER}; it must be above 0."
            )
        if not 0 <= solver.POLY_LR_CONSTANT_ENDING <= 1:
            raise ConfigError(
                f"SOLVER.POLY_LR_CONSTANT_ENDING is {solver.POLY_LR_CONSTANT_ENDING}; it is a "
                "fraction of SOLVER.BASE_LR, between 0 and 1."
            )
        # fvcore's ConstantParamScheduler rejects where = 1, which the last step reaches.
        self.warmup = _after_warmup(solver, LinearParamScheduler(1.0, 1.0))
        self.decay = PolynomialDecayParamScheduler(1.0, solver.POLY_LR_POWER)
        self.ending = solver.POLY_LR_CONSTANT_ENDING

    def __call__(self, where):
        return self.warmup(where) * max(self.decay(where), self.ending)


def scale_for_workers(cfg, num_workers):
    r"""Scale a config made for SOLVER.REFERENCE_WORLD_SIZE workers to another number of them.

    The images per worker and forward pass stay the same, and so does the memory needed. One
    optimizer step then sees kappa times as many images as planned, with

        kappa = num_workers x ACCUMULATE_STEPS / REFERENCE_WORLD_SIZE,

    and all numbers of iterations are divided by kappa. With ACCUMULATE_STEPS 8 on one worker and
    REFERENCE_WORLD_SIZE 8, kappa is 1 and the schedule is exactly the original.

    AdamW follows the square-root rule of Malladi et al., "On the SDEs and Scaling Rules for
    Adaptive Gradient Algorithms" (NeurIPS 2022): lr x sqrt(kappa), (1 - beta) x kappa for both
    betas, eps / sqrt(kappa). Adam divides each gradient by its own magnitude, which for small
    batches is mostly noise and grows as 1/sqrt(kappa) when the batch shrinks. That alone shrinks
    the steps by sqrt(kappa); the learning rate supplies the remaining sqrt(kappa). The rule holds
    only if the betas are scaled too: the moments then average over as many images as before. The
    decoupled weight decay, which that paper leaves out, is scaled by sqrt(kappa) so that the decay
    per step, lr x decay, is kappa times the original.

    SGD follows the linear rule of Goyal et al., "Accurate, Large Minibatch SGD" (2017):
    lr x kappa, momentum and weight decay unchanged.

    The average of the weights spans as many images: its decay becomes decay^kappa (Busbridge et
    al., "How to Scale Your EMA", NeurIPS 2023).

    Gradient clipping is unchanged: neither rule covers it.

    Args:
        cfg (CfgNode): the whole config; not modified.
        num_workers (int): number of training processes.

    Returns:
        CfgNode: `cfg` itself if REFERENCE_WORLD_SIZE is 0. Otherwise a scaled copy with
        REFERENCE_WORLD_SIZE 0, which scaling again leaves unchanged.

    Raises:
        ConfigError: IMS_PER_BATCH is not a multiple of REFERENCE_WORLD_SIZE.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference == 0:
        return cfg
    if cfg.SOLVER.IMS_PER_BATCH % reference:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which is not a multiple of "
            f"SOLVER.REFERENCE_WORLD_SIZE {reference}. Set REFERENCE_WORLD_SIZE to the number of "
            "GPUs that the config was made for, or to 0 to scale nothing."
        )
    scaled = cfg.clone()
    scaled.defrost()
    solver = scaled.SOLVER
    solver.REFERENCE_WORLD_SIZE = 0
    solver.IMS_PER_BATCH = solver.IMS_PER_BATCH // reference * num_workers
    kappa = num_workers * solver.ACCUMULATE_STEPS / reference
    if kappa != 1:
        _scale_rates(solver, kappa)
        _scale_periods(scaled, kappa)
    logging.getLogger(__name__).info(
        f"Scaled from {reference} to {num_workers} workers: {solver.ACCUMULATE_STEPS} x "
        f"{solver.IMS_PER_BATCH} images per iteration ({kappa:g} times as many), learning rate "
        f"{solver.BASE_LR:g}, {solver.MAX_ITER} iterations."
    )
    if cfg.is_frozen():
        scaled.freeze()
    return scaled


def rate_factor(optimizer, kappa):
    """How the learning rate follows the batch, see :func:`scale_for_workers`.

    Args:
        optimizer (str): SOLVER.OPTIMIZER.
        kappa (float): new images per iteration over those that the rate was chosen for.

    Returns:
        float: factor on the rate.
    """
    return kappa if optimizer.upper() == "SGD" else math.sqrt(kappa)


def _scale_rates(solver, kappa):
    rate = rate_factor(solver.OPTIMIZER, kappa)
    if solver.OPTIMIZER.upper() != "SGD":
        # For kappa above 1 / (1 - beta) the rule would give a negative beta; 0 is its limit.
        solver.ADAM_BETAS = tuple(max(1 - kappa * (1 - beta), 0.0) for beta in solver.ADAM_BETAS)
        solver.ADAM_EPS = solver.ADAM_EPS / rate
        solver.WEIGHT_DECAY = solver.WEIGHT_DECAY * rate
    solver.BASE_LR = solver.BASE_LR * rate
    solver.BASE_LR_END = solver.BASE_LR_END * rate


def _scale_periods(cfg, kappa):
    def scale(iterations):
        return max(round(iterations / kappa), 1) if iterations > 0 else iterations

    solver = cfg.SOLVER
    for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
        solver[key] = scale(solver[key])
    solver.STEPS = tuple(scale(step) for step in solver.STEPS)
    cfg.TEST.EVAL_PERIOD = scale(cfg.TEST.EVAL_PERIOD)
    solver.EMA.START_ITER = scale(solver.EMA.START_ITER)
    solver.EMA.DECAY = solver.EMA.DECAY**kappa
    proposals = cfg.MODEL.SparseRCNN.PROPOSALS
    proposals.ANNEAL_ITERS = scale(proposals.ANNEAL_ITERS)

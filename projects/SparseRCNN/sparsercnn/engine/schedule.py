"""Schedules in epochs and fractions, turned into the iterations that training counts in."""

import logging
import math

from ..errors import ConfigError

__all__ = ["max_iterations", "schedule_in_iterations"]

_MANY_EPOCHS = 300  # more are hardly ever meant; the longest published schedules here have 50


def schedule_in_iterations(cfg, num_images):
    """Set all periods in iterations that the config gives in epochs or fractions.

    One iteration, an optimizer step, sees IMS_PER_BATCH x ACCUMULATE_STEPS images. Periods are
    rounded up, so that no evaluation comes shortly before that at the end. SOLVER.EPOCHS without
    STEP_FRACTIONS keeps the proportion of STEPS to MAX_ITER. The schedule is logged, with a warning
    if the warm-up is as long.

    Args:
        cfg (CfgNode): the whole config, already scaled to the number of workers; not modified.
        num_images (int): images of an epoch, without those that are left out; None: unknown.

    Returns:
        CfgNode: `cfg` itself if there is nothing to set, otherwise a changed copy. Converting it
        again gives the same.

    Raises:
        ConfigError: a number of epochs is given but `num_images` is
            not; or the warm-up is as long as the schedule.
    """
    solver = cfg.SOLVER
    in_epochs = [solver.EPOCHS, solver.CHECKPOINT_EPOCHS, cfg.TEST.EVAL_EPOCHS]
    in_fractions = [solver.STEP_FRACTIONS, solver.WARMUP_FRACTION]
    if all(x is None for x in in_epochs + in_fractions):
        _warn_of_long_warmup(cfg.SOLVER)
        _warn_of_many_epochs(cfg, num_images)
        return cfg
    if num_images is None and any(x is not None for x in in_epochs):
        raise ConfigError(
            "SOLVER.EPOCHS, SOLVER.CHECKPOINT_EPOCHS and TEST.EVAL_EPOCHS need the number of "
            "images, which this trainer's loader does not tell. Set SOLVER.MAX_ITER, "
            "SOLVER.CHECKPOINT_PERIOD and TEST.EVAL_PERIOD instead."
        )
    scheduled = cfg.clone()
    scheduled.defrost()
    solver = scheduled.SOLVER

    planned, solver.MAX_ITER = solver.MAX_ITER, max_iterations(cfg, num_images)
    if solver.EPOCHS is not None:
        solver.STEPS = tuple(round(x * solver.MAX_ITER / planned) for x in solver.STEPS)
    if solver.STEP_FRACTIONS is not None:
        solver.STEPS = tuple(round(x * solver.MAX_ITER) for x in solver.STEP_FRACTIONS)
    if solver.WARMUP_FRACTION is not None:
        solver.WARMUP_ITERS = round(solver.WARMUP_FRACTION * solver.MAX_ITER)
    if solver.CHECKPOINT_EPOCHS is not None:
        solver.CHECKPOINT_PERIOD = _iterations(solver, solver.CHECKPOINT_EPOCHS, num_images)
    if scheduled.TEST.EVAL_EPOCHS is not None:
        scheduled.TEST.EVAL_PERIOD = _iterations(solver, cfg.TEST.EVAL_EPOCHS, num_images)
    if solver.EPOCHS is not None and solver.WARMUP_ITERS >= solver.MAX_ITER:
        raise ConfigError(
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} is as long as the schedule: "
            f"SOLVER.EPOCHS {solver.EPOCHS} are {solver.MAX_ITER} iterations. Set "
            "SOLVER.WARMUP_FRACTION, such as 0.05."
        )
    logging.getLogger(__name__).info(_describe(scheduled, num_images))
    _warn_of_long_warmup(solver)
    _warn_of_many_epochs(scheduled, num_images)
    if cfg.is_frozen():
        scheduled.freeze()
    return scheduled


def max_iterations(cfg, num_images):
    """int: length of the schedule; `num_images` is read with SOLVER.EPOCHS alone."""
    solver = cfg.SOLVER
    if solver.EPOCHS is None:
        return solver.MAX_ITER
    return _iterations(solver, solver.EPOCHS, num_images)


def _iterations(solver, epochs, num_images):
    # Rounded first: 1.1 x 100 is a little more than 110 in floating point.
    return max(math.ceil(round(epochs * num_images / _images_per_iteration(solver), 6)), 1)


def _images_per_iteration(solver):
    return solver.IMS_PER_BATCH * solver.ACCUMULATE_STEPS


def _describe(cfg, num_images):
    solver = cfg.SOLVER
    parts = [f"{solver.MAX_ITER} iterations"]
    if num_images is not None:
        epochs = solver.MAX_ITER * _images_per_iteration(solver) / num_images
        parts[0] += (
            f" of {_images_per_iteration(solver)} images, {epochs:.4g} epochs of {num_images}"
        )
    parts.append(f"warm-up {solver.WARMUP_ITERS}")
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [str(x) for x in solver.STEPS if x < solver.MAX_ITER]
        parts.append(f"steps at {', '.join(steps)}" if steps else "no steps")
    parts.append(_often("evaluation", cfg.TEST.EVAL_PERIOD, solver.MAX_ITER))
    parts.append(_often("a checkpoint", solver.CHECKPOINT_PERIOD, solver.MAX_ITER))
    return f"Schedule: {'; '.join(parts)}."


def _often(what, period, max_iter):
    return f"{what} every {period}" if 0 < period < max_iter else f"{what} at the end alone"


def _warn_of_long_warmup(solver):
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        logging.getLogger(__name__).warning(
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} is as long as the schedule: "
            f"SOLVER.MAX_ITER is {solver.MAX_ITER}. The learning rate never comes to "
            "SOLVER.BASE_LR. Set SOLVER.WARMUP_FRACTION, such as 0.05."
        )


def _warn_of_many_epochs(cfg, num_images):
    solver = cfg.SOLVER
    if not num_images:
        return
    epochs = solver.MAX_ITER * _images_per_iteration(solver) / num_images
    if epochs <= _MANY_EPOCHS:
        return
    first = solver.MAX_ITER if cfg.TEST.EVAL_PERIOD <= 0 else cfg.TEST.EVAL_PERIOD
    logging.getLogger(__name__).warning(
        f"This run sees each of its {num_images} images {epochs:,.0f} times: it has "
        f"{solver.MAX_ITER:,} iterations of {_images_per_iteration(solver)} images, and evaluates "
        f"first after {min(first, solver.MAX_ITER):,}. The published schedules have 12 to 50 "
        "epochs; small data sets need a few times as many. Set SOLVER.EPOCHS and TEST.EVAL_EPOCHS, "
        "such as 100 and 10."
    )

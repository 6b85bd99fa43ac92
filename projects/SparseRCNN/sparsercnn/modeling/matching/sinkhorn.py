"""Entropic optimal transport for many small problems at once.

Dimension letters: R rows (suppliers), N columns (each demands one unit).
"""

import math

import torch

__all__ = ["marginal_error", "sinkhorn"]

# The regularisation starts at this fraction of a problem's range of costs ...
_START = 0.1
# ... and falls geometrically to its final value over this fraction of the iterations.
_ANNEALING = 0.7
# Bound of a step in a row's logarithm: Newton's method overshoots if a plan is almost a one-to-one
# matching. With 2, 30 iterations did not always suffice; 6 sometimes overshot.
_LARGEST_STEP = 3.0
# Added to the Hessian, in units: it is singular, since a constant on all rows changes no plan.
_DAMPING = 1e-3


def sinkhorn(cost, supply, epsilon, num_iterations):
    """Find the plans P of least cost - epsilon * entropy, to which Sinkhorn-Knopp converges too.

    P = exp((f_i + g_j - cost_ij) / epsilon) with potentials f and g such that rows sum to their
    supply and columns to 1 (Cuturi, NIPS 2013). An iteration scales the columns exactly, as
    Sinkhorn's does; rows get Newton's step on f (Brauer et al., "A Sinkhorn-Newton method for
    entropic optimal transport", 2017) instead of log(supply / row sum): if proposals are scarce,
    the units that one row gives up pass through many others, which takes Sinkhorn's row by row
    updates thousands of iterations. Computation is in the log domain, and epsilon is annealed.

    The steps do not depend on values, so the host never waits for the device.

    Args:
        cost: (..., R, N), finite, float32 or better.
        supply: (..., R), not negative, with sum N. A row without supply takes no part.
        epsilon (float): the regularisation, in units of cost. A plan is as good as one-to-one
            where costs differ by several times as much.
        num_iterations (int): 30 are enough for epsilon down to 1/10,000 of the range of costs,
            unless a few costs are far larger than all others and cannot be avoided.

    Returns:
        Tensor: (..., R, N), whose columns sum to 1 up to rounding; see :func:`marginal_error` for
        the rows.
    """
    supplies = supply[..., None] > 0
    # A constant on a row changes no plan, and small numbers leave small rounding errors.
    cost = cost - cost.amin(-1, keepdim=True)
    spread = torch.where(supplies, cost, 0.0).amax((-2, -1))
    start = (_START * spread).clamp(min=epsilon)[..., None]
    cost = torch.where(supplies, cost, math.inf)
    potential = torch.zeros_like(supply)
    for i in range(num_iterations):
        progress = min(i / (_ANNEALING * num_iterations), 1.0)
        current = start * (epsilon / start) ** progress
        plan = _scale_columns(cost, potential, current)
        potential = potential + current * _newton_step(plan, supply)
    return _scale_columns(cost, potential, epsilon)


def marginal_error(plan, supply):
    """(...), the largest difference between a row's sum in the plan (..., R, N) and its supply
    (..., R)."""
    return (plan.sum(-1) - supply).abs().amax(-1)


def _scale_columns(cost, potential, epsilon):
    """The plan of these row potentials, whose columns sum to 1."""
    if isinstance(epsilon, torch.Tensor):
        epsilon = epsilon[..., None]
    return torch.softmax((potential[..., None] - cost) / epsilon, dim=-2)


def _newton_step(plan, supply):
    """(..., R), Newton's step in potential / epsilon towards row sums equal to the supplies."""
    shared = plan @ plan.mT
    # The Hessian diag(row sums) - shared, a graph's Laplacian, in the form in which rounding leaves
    # it positive semi-definite.
    hessian = torch.diag_embed(shared.sum(-1) + _DAMPING) - shared
    gap = supply - plan.sum(-1)
    # Of torch's solvers, the one that does not wait for the device to report success.
    step = torch.linalg.solve_ex(hessian, gap[..., None]).result[..., 0]
    largest = step.abs().amax(-1, keepdim=True)
    return step * (_LARGEST_STEP / largest.clamp(min=_LARGEST_STEP))

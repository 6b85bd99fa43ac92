"""Rounding of a transport plan to one row per column, without waiting for the device.

Dimension letters: R rows, the last one of them the background, M = R - 1 objects, N proposals.
"""

import math

import torch

__all__ = ["ROUNDINGS", "round_plan"]

ROUNDINGS = ("supply", "largest_share")

# Shares that differ by less count as equal, and the earlier row wins, the background last: ties are
# frequent with half units of supply, and should not be decided by rounding errors.
_TIE = 0.02
# Passes of the two loops below; a final step handles the rest.
_OFFERS = 3
_REPAIRS = 2


def round_plan(plan, supply, cost, rounding="supply"):
    """Assign each proposal to the row with the largest share in it.

    A share is a plan's entry over the maximum of its row (Dynamic Sparse R-CNN, section 3.2). Every
    object gets a proposal if there are enough of them.

    With rounding "supply", shares within 2 % are equal, and an object wins over the background. An
    object takes at most as many proposals as its supply, rounded up: those with its largest shares;
    others go to the row with their next largest share. (Of two proposals with the same cost, a plan
    gives an object half of each, and both halves are its maximum.) "largest_share" is the paper's
    rule, without these two additions.

    Args:
        plan: (..., R, N), not negative, columns sum to 1.
        supply: (..., R), 0 for padding.
        cost: (..., R, N), finite; used for objects that would be left without a proposal.
        rounding (str): one of :data:`ROUNDINGS`.

    Returns:
        Tensor: (..., N), int64, the row of each proposal; M is the background.
    """
    share = plan / plan.amax(-1, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
    row = share.argmax(-2) if rounding == "largest_share" else _take_largest_shares(share, supply)
    return _give_each_object_one(row, share, supply, cost[..., :-1, :])


def _take_largest_shares(share, supply):
    """Deferred acceptance: proposals ask for rows, and full rows reject the smallest shares."""
    background = supply.shape[-1] - 1
    capacity = (supply - _TIE).ceil().clamp(min=1)
    preference = (share / _TIE).round()
    for _ in range(_OFFERS):
        row = preference.argmax(-2)
        too_many = _rank_in_row(row, share) >= capacity.gather(-1, row)
        turned_away = too_many & (row < background)
        kept = preference.gather(-2, row[..., None, :])
        kept = torch.where(turned_away[..., None, :], -1.0, kept)
        preference = preference.scatter(-2, row[..., None, :], kept)
    return torch.where(turned_away, background, row)


def _give_each_object_one(row, share, supply, cost):
    """Assign the cheapest free proposal to each object without a proposal.

    Proposals of the background are free, and all but the best one of an object. Objects without a
    proposal ask for their cheapest one at the same time; the one with the lowest cost gets it, and
    the others ask again. With three such objects, four proposals of the background and these
    costs::

             p0  p1  p2  p3
        o0    1   5   7   8     all three ask for p0: o0 gets it
        o1    2   3   9   9     o1 and o2 ask for p1: o1 gets it
        o2    3   4   6   9     two passes are over, and o2 has none

    The remaining objects get one free proposal each in a single step, in the order of the lowest
    cost for any of these objects. Here o2 gets p2.
    """
    for _ in range(_REPAIRS):
        lacking, free = _lacking_and_free(row, share, supply)
        cheapest = torch.where(free[..., None, :], cost, math.inf).argmin(-1)
        row = _grant(row, cheapest, lacking, free, cost)
    lacking, free = _lacking_and_free(row, share, supply)
    least = torch.where(lacking[..., None] & free[..., None, :], cost, math.inf).amin(-2)
    place = lacking.cumsum(-1) - 1
    lacking = lacking & (place < free.sum(-1, keepdim=True))
    place = place.clamp(0, row.shape[-1] - 1)
    return _grant(row, least.argsort(-1).gather(-1, place), lacking, free, cost)


def _lacking_and_free(row, share, supply):
    """(..., M), objects without a proposal; (..., N), proposals that they may take."""
    background = supply.shape[-1] - 1
    count = torch.zeros_like(supply).scatter_add(-1, row, torch.ones_like(row, dtype=supply.dtype))
    lacking = (count == 0) & (supply > 0)
    free = (row == background) | (_rank_in_row(row, share) > 0)
    return lacking[..., :-1], free


def _grant(row, proposal, asking, free, cost):
    """Assign free proposals to the objects that ask for them, `asking` (..., M); among several,
    the object with the lowest cost gets it."""
    claim = torch.zeros_like(cost, dtype=torch.bool)
    claim = claim.scatter(-1, proposal[..., None], asking[..., None]) & free[..., None, :]
    least = torch.where(claim, cost, math.inf).min(-2)
    return torch.where(least.values < math.inf, least.indices, row)


def _rank_in_row(row, share):
    """(..., N), how many proposals of the same row have a larger share in it, or the same earlier.

    The proposals are sorted by row and within it by share; their rank is how far each is from the
    first of its row. Five proposals of two rows::

        proposal          0    1    2    3    4
        row               1    0    1    0    1
        its share in it  .2   .9    1    1   .2

        sorted            3    1    2    0    4
        row               0    0    1    1    1
        first of the row  0    0    2    2    2
        rank              0    1    0    1    2

        proposal          0    1    2    3    4
        rank              1    1    0    0    2
    """
    own_share = share.gather(-2, row[..., None, :]).squeeze(-2)
    by_share = own_share.argsort(dim=-1, descending=True, stable=True)
    # Sorting by row leaves the order by share as it is within each.
    order = by_share.gather(-1, row.gather(-1, by_share).argsort(dim=-1, stable=True))
    sorted_row = row.gather(-1, order)
    first_of_row = torch.searchsorted(sorted_row, sorted_row)
    rank = torch.arange(row.shape[-1], device=row.device) - first_of_row
    return torch.zeros_like(rank).scatter(-1, order, rank)

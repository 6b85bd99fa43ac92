import pytest
import torch

from sparsercnn.modeling.matching.rounding import round_plan
from sparsercnn.modeling.matching.sinkhorn import sinkhorn


def test_rounding_worked_by_hand():
    # Shares are 1, 0.5, 0, 0 of the first object; 0, 0.25, 1, 0.125 of the second; and of the
    # background, whose maximum is 0.9, 0, 0.28, 0.22, 1.
    plan = torch.tensor([[1.0, 0.5, 0, 0], [0, 0.25, 0.8, 0.1], [0, 0.25, 0.2, 0.9]])
    row = round_plan(plan, plan.sum(1), torch.zeros(3, 4))
    assert row.tolist() == [0, 0, 1, 2]


def test_half_a_unit_counts_as_a_whole_one_whatever_the_last_digit():
    for noise in (-1e-3, 1e-3):
        plan = torch.tensor([[1.0, 0.5 + noise, 0, 0], [0, 0.5 - noise, 1, 1]])
        row = round_plan(plan, torch.tensor([1.5, 2.5]), torch.zeros(2, 4))
        assert row.tolist() == [0, 0, 1, 1]


def test_proposals_that_cost_the_same_do_not_exceed_the_supply():
    # Three proposals share a unit. Without a limit, all of them would go to the object.
    plan = torch.tensor([[0.3, 0.4, 0.3, 0], [0.7, 0.6, 0.7, 1]])
    assert round_plan(plan, plan.sum(1), torch.zeros(2, 4)).tolist() == [1, 0, 1, 1]
    # What the first of two equal objects may not take goes to the second.
    plan = torch.tensor([[0.5] * 4 + [0, 0], [0.5] * 4 + [0, 0], [0.0] * 4 + [1, 1]])
    row = round_plan(plan, plan.sum(1), torch.zeros(3, 6))
    assert sorted(row.tolist()) == [0, 0, 1, 1, 2, 2]


def test_the_rule_of_the_largest_share_worked_by_hand():
    # The half unit that the object has left is its share 0.4 of 1; the background's is 0.6 of 1.
    plan = torch.tensor([[1.0, 0.4, 0.1, 0], [0, 0.6, 0.9, 1]])
    supply = torch.tensor([1.5, 2.5])
    cost = torch.zeros(2, 4)
    assert round_plan(plan, supply, cost, "largest_share").tolist() == [0, 1, 1, 1]
    # Three proposals that cost the same are all the object's, whose supply is one.
    plan = torch.tensor([[0.33, 0.34, 0.33, 0], [0.67, 0.66, 0.67, 1]])
    assert round_plan(plan, plan.sum(1), cost, "largest_share").tolist() == [0, 0, 0, 1]
    # And still no object is left without a proposal.
    plan = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0, 1]])
    supply, cost = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([[0.0, 5], [0, 3], [0, 0]])
    assert round_plan(plan, supply, cost, "largest_share").tolist() == [0, 1]


def test_objects_left_out_take_what_costs_least():
    # All objects have their maximum at the first proposal; the first of them wins it.
    plan = torch.tensor([[0.5, 0, 0, 0, 0], [0.3, 0, 0, 0, 0], [0.2, 0, 0, 0, 0], [0, 1, 1, 1, 1]])
    supply = torch.tensor([1.0, 1.0, 1.0, 2.0])
    cost = torch.tensor(
        [[0.0, 5, 5, 5, 5], [0, 3, 1, 4, 4], [0, 4, 2, 3, 9], [0, 0, 0, 0, 0]],
    )  # fmt: skip
    # Both of the others want the third most: the cheaper pair gets it.
    assert round_plan(plan, supply, cost).tolist() == [0, 3, 1, 2, 3]


def test_whoever_is_left_out_twice_gets_the_cheapest_that_is_left():
    # All proposals are the background's. The first is the cheapest for every object, then the
    # second for the other two.
    plan = torch.tensor([[0.0] * 4] * 3 + [[1.0] * 4])
    supply = torch.tensor([1.0, 1.0, 1.0, 1.0])
    cost = torch.tensor([[1.0, 5, 7, 8], [2, 3, 9, 9], [3, 4, 6, 9], [0, 0, 0, 0]])
    assert round_plan(plan, supply, cost).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("num_objects,num_proposals", [(9, 9), (9, 4), (30, 7), (2, 1), (12, 40)])
def test_identical_objects_get_proposals_of_their_own(num_objects, num_proposals):
    cost = torch.rand(num_proposals).repeat(num_objects + 1, 1)
    cost[-1] = 0
    unit = min(1.0, num_proposals / num_objects)
    supply = torch.tensor([unit] * num_objects + [max(num_proposals - num_objects, 0)])
    row = round_plan(sinkhorn(cost, supply, 0.005, 30), supply, cost)
    taken = row[row < num_objects]
    assert len(taken) == len(set(taken.tolist())) == min(num_objects, num_proposals)
    if num_proposals > num_objects:
        cheapest = cost[0].topk(num_objects, largest=False).indices
        assert set(cheapest.tolist()) == set(torch.nonzero(row < num_objects)[:, 0].tolist())

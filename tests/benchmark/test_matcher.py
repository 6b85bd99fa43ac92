import argparse

import pytest
import torch

from sparsercnn.benchmark import matcher
from sparsercnn.modeling.matching.sinkhorn import marginal_error, sinkhorn


def parse(*arguments):
    parser = argparse.ArgumentParser()
    matcher.add_arguments(parser)
    return parser.parse_args([*arguments, "--device", "cpu"])


def test_table_has_a_row_for_each_size():
    sizes = ("--batch", "1", "2", "--objects", "3", "--proposals", "12", "--stages", "2")
    report = matcher.run(parse(*sizes, "--rounds", "1", "--loop-problems", "2", "--classes", "4"))
    rows = [line.split("|")[1:-1] for line in report.splitlines() if line.startswith("|")]
    assert [[int(x) for x in row[:3]] for row in rows[2:]] == [[1, 3, 12], [2, 3, 12]]
    assert all(float(x.replace(",", "")) > 0 for row in rows[2:] for x in row[3:8])
    assert "sweeps" in report


def test_by_default_the_published_sizes():
    args = parse()
    assert (args.batch, args.objects, args.proposals) == ([1, 2, 16], [10, 100], [100, 300])
    assert args.stages == 6


@pytest.mark.parametrize("background", [3.0, 0.0])
def test_plain_solver_finds_the_same_plan(background):
    cost = 4 * torch.rand(5, 9)
    supply = torch.tensor([1.0, 2.0, 1.5, 4.5 - background, background])
    plain = matcher.plain_sinkhorn(cost, supply, 0.2)
    assert marginal_error(plain, supply) < 1e-3
    torch.testing.assert_close(plain, sinkhorn(cost, supply, 0.2, 30), atol=2e-3, rtol=1e-2)


def test_problem_is_the_same_each_time_and_has_images_of_fewer_objects():
    first, second = (matcher.make_problem(2, 5, 8, 3, 16, device="cpu") for _ in range(2))
    assert first[0].shape == (2, 5, 8, 3) and first[1].shape == (2, 5, 8, 4)
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()
    assert first[2].counts == [16, 15, 14, 13, 16]

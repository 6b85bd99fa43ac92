"""Label assignment: Hungarian, batched optimal transport, and the same solved one by one."""

import statistics
from functools import partial
from itertools import product

import torch
from detectron2.structures import Boxes, Instances

from ..analysis import markdown_table
from ..modeling.matching import HungarianMatcher, OptimalTransportMatcher
from ..modeling.matching.rounding import round_plan
from ..modeling.matching.sinkhorn import marginal_error, sinkhorn
from ..structures import Targets
from . import common

__all__ = ["SHORT", "add_arguments", "make_problem", "measure", "plain_sinkhorn", "run"]

SHORT = True

_SIZE = 800  # side of the images in pixels
_TOLERANCE = 1e-3  # marginal error at which the plain solver stops
_MAX_SWEEPS = 200  # number of sweeps after which it gives up
_SWEEPS_PER_CHECK = 10


def add_arguments(parser):
    """Add the options of this benchmark to an :class:`argparse.ArgumentParser`."""
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 2, 16], metavar="B")
    parser.add_argument("--objects", nargs="+", type=int, default=[10, 100], metavar="M")
    parser.add_argument("--proposals", nargs="+", type=int, default=[100, 300], metavar="N")
    parser.add_argument("--stages", type=int, default=6, metavar="T")
    parser.add_argument("--classes", type=int, default=80, metavar="K")
    parser.add_argument("--rounds", type=int, default=3, help="medians are reported (%(default)s)")
    parser.add_argument(
        "--loop-problems",
        type=int,
        default=4,
        metavar="P",
        help="number of the stages x images that are solved one by one; the time is scaled up to "
        "all of them (%(default)s)",
    )
    common.add_device_argument(parser, "device of the predictions")


def run(args):
    """Run the benchmark with the options of :func:`add_arguments`; returns a Markdown table."""
    header = ["images", "objects", "proposals", "Hungarian ms", "ours ms", "plain loop ms"]
    header += ["loop / ours", "ours 1 by 1 / ours", "error", "plain error"]
    rows = []
    for batch, num_objects, num_proposals in product(args.batch, args.objects, args.proposals):
        shape = (args.stages, batch, num_proposals, args.classes)
        problem = make_problem(*shape, num_objects, device=args.device)
        seconds, errors = measure(*problem, rounds=args.rounds, loop_problems=args.loop_problems)
        hungarian, ours, plain, one_by_one = (1e3 * value for value in seconds.values())
        cells = [batch, num_objects, num_proposals, f"{hungarian:,.1f}", f"{ours:,.1f}"]
        cells += [f"{plain:,.0f}", f"{plain / ours:.1f}", f"{one_by_one / ours:.1f}"]
        cells += [f"{errors[name]:.0e}" for name in ("one_by_one", "plain")]
        rows.append(cells)
    return (
        f"{args.stages} stages, {args.classes} classes, {common.describe_place(args.device)}; "
        f"medians of {args.rounds} rounds, matchers in turn.\n\n"
        f"{markdown_table(header, rows, text_columns=0)}\n\n{_LEGEND}"
    )


def make_problem(num_stages, batch, num_proposals, num_classes, num_objects, *, device):
    """Random predictions similar to those half-way through a training.

    Half of the proposals are near an object and score its class; the others are random.

    Returns:
        tuple: class logits (S, B, N, K), boxes (S, B, N, 4), and Targets with 3/4 to all of
        `num_objects` objects per image.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(*shape, generator=generator)

    S, B, N, K = num_stages, batch, num_proposals, num_classes
    centre, size = draw(B, num_objects, 2), 0.05 + 0.4 * draw(B, num_objects, 2) ** 2
    objects = torch.cat([centre - size / 2, centre + size / 2], dim=-1).clamp(0, 1)
    classes = torch.randint(K, (B, num_objects), generator=generator)
    instances = []
    for b in range(B):
        count = num_objects - b % 4 * num_objects // 16
        instances.append(Instances((_SIZE, _SIZE)))
        instances[-1].gt_boxes = Boxes(_SIZE * objects[b, :count])
        instances[-1].gt_classes = classes[b, :count]

    centre, size = draw(S, B, N, 2), 0.05 + 0.5 * draw(S, B, N, 2) ** 2
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
    logits = torch.randn(S, B, N, K, generator=generator) - 4
    target = torch.randint(num_objects, (S, B, N), generator=generator)
    image = torch.arange(B)[None, :, None]
    near = draw(S, B, N, 1) < 0.5
    around = objects[image, target] + 0.03 * (draw(S, B, N, 1) - 0.5)
    boxes = torch.where(near, around, boxes)
    boost = torch.where(near, 5 * draw(S, B, N, 1), 0.0)
    logits = logits.scatter_add(-1, classes[image, target][..., None], boost)
    targets = Targets.from_instances(instances, device)
    return logits.to(device), (_SIZE * boxes).to(device), targets


def measure(class_logits, boxes, targets, *, rounds=3, loop_problems=4):
    """Time all matchers on one batch in every round.

    Args:
        class_logits, boxes, targets: from :func:`make_problem`.
        rounds (int): timed rounds, after an untimed one.
        loop_problems (int): see :func:`add_arguments`.

    Returns:
        tuple[dict, dict]: median of the seconds of "hungarian", "ours", "plain" and "one_by_one"
        (see the legend of the report), in this order; and the largest marginal error of the last
        two.
    """
    inputs, errors = (class_logits, boxes, targets), {}
    hungarian, ours = HungarianMatcher(), OptimalTransportMatcher()
    problems = list(product(*map(range, boxes.shape[:2])))
    some = problems[:: max(len(problems) // loop_problems, 1)]

    def loop(name, solve):
        errors[name] = _one_by_one(solve, ours, *inputs, some)

    ours_alone = partial(sinkhorn, num_iterations=ours.num_iterations)
    functions = {
        "hungarian": partial(hungarian, *inputs),
        "ours": partial(ours, *inputs),
        "plain": partial(loop, "plain", plain_sinkhorn),
        "one_by_one": partial(loop, "one_by_one", ours_alone),
    }
    seconds = common.time_in_turn(functions, rounds, boxes.device.type)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name in errors:
        medians[name] *= len(problems) / len(some)
    return medians, errors


def plain_sinkhorn(cost, supply, epsilon):
    """Textbook Sinkhorn-Knopp in the log domain, for one problem.

    Epsilon starts as in :func:`sinkhorn` and is reduced by a fifth per sweep. The marginals decide
    when to stop, which would wait for a GPU.

    Args:
        cost: (R, N).
        supply: (R,), as for :func:`sinkhorn`.
        epsilon (float): final regularisation.

    Returns:
        Tensor: (R, N).
    """
    some = supply > 0
    plan = torch.zeros_like(cost)
    cost, supply = cost[some], supply[some]
    f, g = torch.zeros_like(supply), cost.new_zeros(cost.shape[1])
    current = max(0.1 * (cost - cost.amin(1, keepdim=True)).max().item(), epsilon)
    for sweep in range(_MAX_SWEEPS):
        f = current * (supply.log() - torch.logsumexp((g - cost) / current, dim=1))
        g = -current * torch.logsumexp((f[:, None] - cost) / current, dim=0)
        if current == epsilon and sweep % _SWEEPS_PER_CHECK == 0:
            plan[some] = ((f[:, None] + g - cost) / epsilon).exp()
            if marginal_error(plan[some], supply).item() < _TOLERANCE:
                break
        current = max(0.8 * current, epsilon)
    return plan


@torch.no_grad()
def _one_by_one(solve, matcher, class_logits, boxes, targets, problems):
    """Solve and round each problem separately, without padding; returns the largest error."""
    errors = []
    for s, b in problems:
        count = targets.counts[b]
        padded = (targets.boxes, targets.classes, targets.valid)
        fields = (x[b : b + 1, :count] for x in padded)
        alone = Targets(*fields, image_sizes=targets.image_sizes[b : b + 1], counts=[count])
        here = (slice(s, s + 1), slice(b, b + 1))
        cost = matcher.cost(class_logits[here], boxes[here], alone)[0, 0]
        supply = matcher.supply(boxes[s:, b : b + 1], alone)[0, 0]
        plan = solve(cost, supply, matcher.epsilon)
        round_plan(plan, supply, cost)
        errors.append(marginal_error(plan, supply))
    return max(error.item() for error in errors)


_LEGEND = f"""\
**ours**: optimal transport with default settings, all stages of all images at once. **plain loop**:
the same costs, supplies and rounding, with log-domain Sinkhorn-Knopp at the same epsilon, for each
stage of each image in a loop, until the marginals are within {_TOLERANCE:g} or {_MAX_SWEEPS:,}
sweeps are done. **ours 1 by 1**: our solver in such a loop, which shows the gain from batching
alone. **error**: largest difference between the sum of a plan's row and its supply, in units."""

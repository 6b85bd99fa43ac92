"""Micro-batches of a detector add up to one big batch."""

import itertools
import math
import os
import re
from functools import partial

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.utils import clip_grad_norm_

from sparsercnn.engine.accumulation import MicroBatchWeights
from sparsercnn.engine.train_step import TrainStep
from sparsercnn.modeling.activation_checkpoint import checkpoint_activations

NO_CLIPPING = partial(clip_grad_norm_, max_norm=math.inf)
# Images by micro-batch: unequal numbers of objects, and in the second one none.
SPLIT = [[0, 1], [2], [3]]


@pytest.fixture
def cfg(tiny_cfg):
    """Without batch statistics, which are of a micro-batch and cannot agree."""
    tiny_cfg.MODEL.RESNETS.NORM, tiny_cfg.MODEL.FPN.NORM = "FrozenBN", ""
    return tiny_cfg


@pytest.fixture
def images(make_input):
    box, other, third = [4.0, 4, 20, 15], [10.0, 8, 30, 30], [1.0, 12, 9, 31]
    return [
        make_input((32, 32), [box, other, third], [0, 2, 1]),
        make_input((32, 32), [other], [1]),
        make_input((32, 32)),
        make_input((32, 32), [third, box], [2, 0]),
    ]


def _variant(cfg, matcher, use_focal):
    cfg.MODEL.SparseRCNN.MATCHER.NAME = matcher
    cfg.MODEL.SparseRCNN.USE_FOCAL = use_focal
    cfg.MODEL.SparseRCNN.NUM_PROPOSALS = 12
    return cfg


def _step(model, images, split, **options):
    batches = [[images[i] for i in batch] for batch in split]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"clip_gradients": NO_CLIPPING, "accumulate_steps": len(batches), **options}
    return TrainStep(model, itertools.cycle(batches), optimizer, **options)


def _run(step, iteration=0):
    with EventStorage(iteration) as storage:
        step.iter = iteration
        step.run_step()
    return {name: value for name, (value, _) in storage.latest().items()}


def _gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _compare(cfg, images, split=SPLIT, **options):
    """Gradients and scalars of one big batch and of micro-batches, and the latter's model."""
    results = []
    everything = [[i for batch in split for i in batch]]
    for batches in (everything, split):
        torch.manual_seed(1)
        cfg.SOLVER.ACCUMULATE_STEPS = len(batches)
        model = build_model(cfg)
        scalars = _run(_step(model, images, batches, **(options if batches is split else {})))
        results.append((_gradient(model), scalars))
    return (*results, model)


def _error(expected, actual):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("split", [SPLIT, [[2], [0, 3], [1]], [[2], [2]]])
@pytest.mark.parametrize("use_focal", [True, False])
@pytest.mark.parametrize("matcher", ["hungarian", "optimal_transport"])
def test_micro_batches_equal_one_big_batch(cfg, images, matcher, use_focal, split):
    cfg = _variant(cfg, matcher, use_focal)
    (expected, scalars), (actual, others), _ = _compare(cfg, images, split, exact_accumulation=True)
    assert _error(expected, actual) < 1e-5
    for name, value in scalars.items():
        if "loss" in name:
            assert others[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("matcher", ["hungarian", "optimal_transport"])
def test_masks_of_micro_batches_too(cfg, images, matcher):
    cfg = _variant(cfg, matcher, True)
    cfg.MODEL.MASK_ON = True
    mask = cfg.MODEL.SparseRCNN.MASK
    mask.POOLER_RESOLUTION, mask.NUM_CONV, mask.CONV_DIM, mask.NORM = 4, 1, 8, ""
    for x in images:
        boxes = x["instances"].gt_boxes.tensor.tolist()
        triangles = [[[x1, y1, x1, y2, x2, y2]] for x1, y1, x2, y2 in boxes]
        x["instances"].gt_masks = PolygonMasks(triangles)
    (expected, scalars), (actual, others), _ = _compare(cfg, images, exact_accumulation=True)
    assert _error(expected, actual) < 1e-5
    for name in ("loss_mask", "loss_mask_0"):
        assert others[name] == pytest.approx(scalars[name], rel=1e-5), name


def test_dynamic_proposals_are_mixed_as_in_one_big_batch(cfg, images):
    """At one temperature, although it falls by a third of all in this iteration."""
    cfg = _variant(cfg, "optimal_transport", True)
    proposals = cfg.MODEL.SparseRCNN.PROPOSALS
    proposals.NAME, proposals.ANNEAL_ITERS, proposals.INIT = "dynamic", 3, "random"
    (expected, _), (actual, _), _ = _compare(cfg, images, exact_accumulation=True)
    assert _error(expected, actual) < 1e-5


@pytest.mark.parametrize(
    "matcher,use_focal,what",
    [
        ("optimal_transport", True, "losses are divided by what OptimalTransportMatcher counts"),
        ("optimal_transport", False, "OptimalTransportMatcher counts.*loss_ce is divided by the"),
        ("hungarian", False, "but loss_ce is divided by the weights of the classes"),
    ],
)
def test_the_log_says_when_they_do_not(cfg, images, caplog, matcher, use_focal, what):
    cfg = _variant(cfg, matcher, use_focal)
    (expected, _), (actual, _), model = _compare(cfg, images)
    assert 1e-3 < _error(expected, actual) < 0.5  # close, as is said
    (record,) = caplog.records
    message = record.getMessage()
    assert record.levelname == "WARNING" and record.name.startswith("sparsercnn")
    assert "ACCUMULATE_STEPS 3" in message and "EXACT_ACCUMULATION True" in message
    assert MicroBatchWeights(model, 3).notice() == message
    assert re.search(what, message) and "batch norms" not in message


@pytest.mark.parametrize("exact", [True, False])
def test_hungarian_matching_with_focal_loss_is_exact_at_no_cost(cfg, images, caplog, exact):
    model = build_model(cfg)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    _run(_step(model, images, SPLIT, exact_accumulation=exact))
    assert passes == [True] * 3 and not caplog.records


def test_counting_takes_a_pass_of_each_micro_batch_without_gradients(cfg, images, caplog):
    model = build_model(_variant(cfg, "optimal_transport", True))
    passes = []
    model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    _run(_step(model, images, SPLIT, exact_accumulation=True))
    assert passes == [False] * 3 + [True] * 3
    del passes[:]
    _run(_step(model, images, [[0, 1, 2, 3]], exact_accumulation=True))
    assert passes == [True] and not caplog.records


def _record_assignments(model):
    seen = []
    model.criterion.matcher.register_forward_hook(
        lambda module, args, output: seen.append(output.target_index)
    )
    return seen


@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16])
def test_what_is_counted_is_what_is_trained_on(cfg, images, amp_dtype):
    """With dropout, dynamic proposals, recomputed activations and mixed precision."""
    cfg = _variant(cfg, "optimal_transport", True)
    cfg.MODEL.SparseRCNN.DROPOUT = 0.5
    cfg.MODEL.SparseRCNN.PROPOSALS.NAME = "dynamic"
    cfg.SOLVER.ACCUMULATE_STEPS = 3
    model = build_model(cfg)
    checkpoint_activations(model, backbone=True, head=True)
    seen = _record_assignments(model)
    step = _step(
        model, images, SPLIT, exact_accumulation=True, amp_dtype=amp_dtype,
        grad_scaler=torch.amp.GradScaler("cpu", init_scale=1024.0),
    )  # fmt: skip
    assert math.isfinite(_run(step)["total_loss"])
    assert len(seen) == 6
    for counted, trained in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(counted, trained)


def test_dropout_draws_the_same_with_and_without_counting(cfg, images):
    cfg = _variant(cfg, "optimal_transport", True)
    cfg.MODEL.SparseRCNN.DROPOUT = 0.5
    assignments = []
    for exact in (True, False):
        torch.manual_seed(1)
        model = build_model(cfg)
        assignments.append(_record_assignments(model))
        _run(_step(model, images, SPLIT, exact_accumulation=exact, seed=5))
    for counted, trained in zip(assignments[0][3:], assignments[1], strict=True):
        assert torch.equal(counted, trained)


def test_counting_leaves_no_trace(tiny_cfg, images):
    """Running statistics take each image in once, and the temperature falls once."""
    cfg = _variant(tiny_cfg, "optimal_transport", True)
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.SparseRCNN.PROPOSALS.NAME = "dynamic"
    cfg.SOLVER.ACCUMULATE_STEPS = 3
    buffers = []
    for exact in (True, False):
        torch.manual_seed(1)
        model = build_model(cfg)
        _run(_step(model, images, [[0, 1], [2, 3], [1, 2]], exact_accumulation=exact))
        buffers.append(dict(model.named_buffers()))
    tracked = [x for name, x in buffers[0].items() if name.endswith("num_batches_tracked")]
    assert tracked and all(x == 3 for x in tracked)
    for name, value in buffers[0].items():
        assert torch.equal(value, buffers[1][name]), name


def test_statistics_are_recorded_once(cfg, images):
    model = build_model(_variant(cfg, "optimal_transport", True))
    step = _step(model, images, SPLIT, exact_accumulation=True)
    with EventStorage(19) as storage:
        step.iter = 19
        step.run_step()
        assert len(storage.history("sinkhorn_error").values()) == 1
        assert len(storage.history("positives_per_object").values()) == 1


def test_a_bad_batch_is_skipped_or_reported(cfg, images):
    cfg = _variant(cfg, "optimal_transport", True)
    model = build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images[2]["image"] = torch.full((3, 32, 32), math.nan)
    images[2]["file_name"] = "bad.jpg"
    step = _step(model, images, SPLIT, exact_accumulation=True, skip_non_finite=True)
    assert _run(step) == {"non_finite_iterations": 1}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    step.skip_non_finite = False
    with pytest.raises(FloatingPointError, match="on worker 0 from images bad.jpg\\."):
        _run(step)


def test_batch_norms_are_named(tiny_cfg):
    tiny_cfg.MODEL.RESNETS.NORM = "BN"
    model = build_model(tiny_cfg)
    norms = [x for x in model.modules() if isinstance(x, nn.BatchNorm2d)]
    assert norms
    notice = MicroBatchWeights(model, 2).notice()
    assert f"{len(norms)} batch norms in training" in notice
    assert "EXACT_ACCUMULATION" not in notice
    assert MicroBatchWeights(model, 1).notice() == ""


def test_models_that_tell_nothing():
    model = nn.Linear(1, 1)
    assert "Linear does not tell what its losses are" in MicroBatchWeights(model, 2).notice()
    with pytest.raises(ValueError, match="EXACT_ACCUMULATION .* Linear does not tell.* False"):
        MicroBatchWeights(model, 2, exact=True)
    assert MicroBatchWeights(model, 1, exact=True).notice() == ""


def test_the_key(cfg, images):
    cfg = _variant(cfg, "optimal_transport", True)
    cfg.SOLVER.ACCUMULATE_STEPS = 2
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for exact in (False, True):
        cfg.SOLVER.EXACT_ACCUMULATION = exact
        step = TrainStep(cfg, model, [], optimizer)
        assert step.micro_batch_weights.needs_counting == exact


def _worker(rank, folder, cfg, images, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.manual_seed(1)
    model = nn.parallel.DistributedDataParallel(build_model(cfg))
    step = _step(model, images[2 * rank :], [[0], [1]], exact_accumulation=True)
    scalars = _run(step)
    queue.put((rank, scalars, _gradient(model).tolist()))
    torch.distributed.barrier()
    # Gloo's threads at times abort the process while the interpreter shuts down.
    os._exit(0)


def test_two_workers_equal_one_big_batch(cfg, images, tmp_path):
    cfg = _variant(cfg, "optimal_transport", True)
    torch.manual_seed(1)
    model = build_model(cfg)
    expected = _run(_step(model, images, [[0, 1, 2, 3]]))
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    arguments = (str(tmp_path), cfg, images, queue)
    processes = torch.multiprocessing.spawn(_worker, arguments, nprocs=2, join=False)
    results = sorted(queue.get() for _ in range(2))
    processes.join()
    for rank, scalars, gradient in results:
        assert _error(_gradient(model), torch.tensor(gradient)) < 1e-5
        if rank == 0:
            for name in ("loss_ce", "loss_bbox_0", "total_loss"):
                assert scalars[name] == pytest.approx(expected[name], rel=1e-5)

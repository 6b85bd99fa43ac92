import itertools
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.utils import clip_grad_norm_

from sparsercnn.engine.train_step import TrainStep

NO_CLIPPING = partial(clip_grad_norm_, max_norm=math.inf)


class Objects:
    """A criterion that divides losses by objects alone, as far as the training needs to know."""

    late_normalizers = ()

    @staticmethod
    def weigh_by_objects(batches, device):
        counts = torch.tensor([float(sum(x["count"] for x in batch)) for batch in batches])
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(counts)
        counts /= comm.get_world_size()
        return (counts.clamp(min=1) / counts.sum().clamp(min=1)).to(device)


class Counting(nn.Module):
    """Two losses of a linear layer, normalised by the number of objects like a detector's."""

    criterion = Objects()

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.constant_(self.layer.bias, 0.1)

    def forward(self, batch):
        count = torch.tensor(float(sum(x["count"] for x in batch)))
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(count)
        count = (count / comm.get_world_size()).clamp(min=1)
        outputs = torch.cat([self.layer(x["value"]) for x in batch])
        return {"loss_a": outputs.square().sum() / count, "loss_b": outputs.sum() / count}


def _image(first, second, count, name="image.jpg"):
    return {"value": torch.tensor([first, second]), "count": count, "file_name": name}


def _step(model, batches, **options):
    options.setdefault("clip_gradients", NO_CLIPPING)
    optimizer = options.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainStep(model, itertools.cycle(batches), optimizer, **options)


def _run(step, iterations=1):
    """The latest scalars after some iterations."""
    with EventStorage() as storage:
        for iteration in range(iterations):
            storage.iter = step.iter = iteration
            step.run_step()
    return {name: value for name, (value, _) in storage.latest().items()}


IMAGES = [_image(1.0, 2.0, 3), _image(-1.0, 0.5, 0), _image(0.3, -2.0, 1), _image(2.0, 2.0, 4)]


@pytest.mark.parametrize(
    "counts", [(2, 2, 2, 2), (3, 0, 1, 4), (0, 0, 1, 4), (0, 0, 0, 0), (1, 0, 0, 0)]
)
def test_accumulated_micro_batches_equal_one_big_batch(counts):
    images = [{**image, "count": count} for image, count in zip(IMAGES, counts, strict=True)]
    big, small = Counting(), Counting()
    expected = _run(_step(big, [images]))
    actual = _run(_step(small, [images[:1], images[1:3], images[3:]], accumulate_steps=3))
    for a, b in zip(big.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
        torch.testing.assert_close(a, b)
    for name in ("loss_a", "loss_b", "total_loss", "grad_norm"):
        assert actual[name] == pytest.approx(expected[name], rel=1e-5)


class Averaging(Counting):
    """No count: the losses are means over the images."""

    criterion = None

    def forward(self, batch):
        return torch.cat([self.layer(x["value"]) for x in batch]).square().mean()


def test_models_that_do_not_count_get_equal_weights():
    big, small = Averaging(), Averaging()
    expected = _run(_step(big, [IMAGES]))
    actual = _run(_step(small, [IMAGES[:2], IMAGES[2:]], accumulate_steps=2))
    torch.testing.assert_close(big.layer.weight, small.layer.weight)
    assert actual["total_loss"] == pytest.approx(expected["total_loss"])


@pytest.fixture
def detector_inputs(make_input):
    box, other = [4.0, 4.0, 20.0, 15.0], [10.0, 8.0, 30.0, 30.0]
    return [
        make_input((32, 32), [box, other], [0, 2]),
        make_input((32, 32), [other], [1]),
        make_input((32, 32)),
        make_input((32, 32), [box], [2]),
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("matcher", ["hungarian", "optimal_transport"])
@pytest.mark.parametrize("options", [{}, {"amp_dtype": torch.bfloat16}, {"accumulate_steps": 2}])
def test_nothing_but_the_hungarian_matching_waits_for_a_gpu(
    tiny_cfg, detector_inputs, monkeypatch, matcher, options
):
    """From the batch's copy to the reading of the losses."""
    tiny_cfg.MODEL.DEVICE = "cuda"
    tiny_cfg.MODEL.SparseRCNN.MATCHER.NAME = matcher
    model = build_model(tiny_cfg)
    step = _step(model, [detector_inputs], **options)
    _run(step, 2)  # libraries are initialised, and the optimizer's moments

    def in_mode(mode, function):
        def call(*args):
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode(mode)
            try:
                return function(*args)
            finally:
                torch.cuda.set_sync_debug_mode(before)

        return call

    if matcher == "hungarian":  # the solver runs on the host
        allowed = in_mode("default", model.criterion.matcher.forward)
        monkeypatch.setattr(model.criterion.matcher, "forward", allowed)
    monkeypatch.setattr(step, "run_step", in_mode("error", step.run_step))
    monkeypatch.setattr(step, "_metrics_to_host", in_mode("default", step._metrics_to_host))
    _run(step, 2)
    monkeypatch.setattr(step, "_metrics_to_host", lambda iteration: iteration.losses.tolist())
    with pytest.raises(RuntimeError, match="synchroniz"):
        _run(step, 1)


@pytest.mark.parametrize("split", [[[0, 1], [3]], [[2], [0, 3]]])
def test_accumulation_on_the_detector(tiny_cfg, detector_inputs, split):
    # Batch statistics are of a micro-batch, so batch norms cannot agree.
    tiny_cfg.MODEL.RESNETS.NORM, tiny_cfg.MODEL.FPN.NORM = "FrozenBN", ""
    model = build_model(tiny_cfg)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = []
    for batches in ([[i for batch in split for i in batch]], split):
        model.load_state_dict(start)
        batches = [[detector_inputs[i] for i in batch] for batch in batches]
        _run(_step(model, batches, accumulate_steps=len(batches)))
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    largest = max(gradient.abs().max() for gradient in gradients[0].values())
    for name, expected in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], expected, rtol=1e-3, atol=1e-5 * float(largest), msg=name
        )


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_gradients_are_clipped_unscaled(scale):
    model = Counting()
    before = model.layer.weight.detach().clone()
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    step = _step(
        model,
        [IMAGES],
        clip_gradients=partial(clip_grad_norm_, max_norm=0.01),
        grad_scaler=scaler,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
    )
    scalars = _run(step)
    assert scalars["grad_norm"] > 0.1
    assert scalars.get("loss_scale") == scale
    moved = torch.cat([(before - model.layer.weight).flatten(), 0.1 - model.layer.bias]).detach()
    assert moved.norm() == pytest.approx(0.01, rel=1e-3)


def test_scaler_leaves_out_an_overflow_and_lowers_its_scale():
    model = Counting()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    step = _step(model, [[_image(100.0, 100.0, 1)]], grad_scaler=scaler)
    scalars = _run(step)
    assert model.layer.weight.tolist() == [[0.5, 0.5]]
    assert scaler.get_scale() == 2.0**125 and step.num_skipped == 0
    assert "grad_norm" not in scalars  # infinite: no number for the log


def test_bfloat16_on_the_cpu(tiny_cfg, detector_inputs):
    tiny_cfg.SOLVER.AMP.ENABLED = True
    tiny_cfg.SOLVER.AMP.DTYPE = "bfloat16"
    model = build_model(tiny_cfg)
    seen = []
    layer = model.head.head_series[0].linear1
    layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(tiny_cfg, model, itertools.cycle([detector_inputs]), optimizer)
    assert step.grad_scaler is None
    assert math.isfinite(_run(step)["total_loss"])
    assert seen == [torch.bfloat16]


def test_float16_on_the_cpu_and_unknown_dtypes_name_the_key(tiny_cfg):
    tiny_cfg.SOLVER.AMP.ENABLED = True
    optimizer = torch.optim.SGD(Counting().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="AMP.DTYPE float16 needs a GPU.*bfloat16"):
        TrainStep(tiny_cfg, Counting(), [], optimizer)
    tiny_cfg.SOLVER.AMP.DTYPE = "half"
    with pytest.raises(ValueError, match="AMP.DTYPE is 'half'"):
        TrainStep(tiny_cfg, Counting(), [], optimizer)
    with pytest.raises(ValueError, match="ACCUMULATE_STEPS is 0"):
        _step(Counting(), [], accumulate_steps=0)


class Staged(nn.Module):
    """A detector of two stages with dropout and running statistics; a NaN pixel is NaN in all."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.layer = nn.Linear(2, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch):
        x = self.dropout(self.layer(self.norm(torch.stack([x["value"] for x in batch]))))
        return {"loss_giou": torch.ones(()), "loss_ce": x.sum() * 0, "loss_ce_0": x.sum()}


GOOD = [_image(1.0, 2.0, 1, "good.jpg"), _image(0.0, 1.0, 1, "fine.jpg")]
BAD = [_image(1.0, math.nan, 1, "bad.jpg"), _image(0.0, 1.0, 1, "worse.jpg")]


def test_a_non_finite_loss_stops_before_the_weights_change(tmp_path):
    model = Staged()
    weight = model.layer.weight.detach().clone()
    step = _step(model, [GOOD, BAD], accumulate_steps=2, output_dir=str(tmp_path))
    with pytest.raises(FloatingPointError) as error:
        _run(step)
    message = str(error.value)
    assert "iteration 0" in message and "worker 0" in message
    assert "bad.jpg" in message and "good.jpg" not in message
    assert "loss_ce (last stage), loss_ce_0 (stage 1)" in message and "loss_giou" not in message
    for key in ("BASE_LR", "WARMUP_ITERS", "AMP.DTYPE", "SKIP_NON_FINITE"):
        assert key in message
    assert torch.equal(model.layer.weight, weight)


def test_the_report_reproduces_the_losses(tmp_path):
    model = Staged()
    bad = [{**x, "value": x["value"].clone()} for x in GOOD]
    model.layer.bias.data.fill_(math.inf)
    with pytest.raises(FloatingPointError) as error:
        _run(_step(model, [bad], output_dir=str(tmp_path)))
    path = tmp_path / "non_finite" / "iteration_0000000_rank_0.pth"
    assert str(path) in str(error.value)
    report = torch.load(path, weights_only=False)
    assert report["iteration"] == 0 and report["losses"][0]["loss_giou"] == 1
    again = Staged()
    again.load_state_dict(report["model"])
    torch.set_rng_state(report["random_states"][0]["cpu"])
    losses = {name: loss.item() for name, loss in again(report["batches"][0]).items()}
    assert str(losses) == str(report["losses"][0])


def test_a_full_disk_does_not_hide_the_loss(tmp_path):
    (tmp_path / "non_finite").write_text("a file where the folder should be")
    with pytest.raises(FloatingPointError, match="bad.jpg[^$]*could not be saved"):
        _run(_step(Staged(), [BAD], output_dir=str(tmp_path)))


def test_a_non_finite_gradient_stops_too():
    class Root(Counting):
        def forward(self, batch):
            return {"loss": (self.layer.weight * 0).abs().sqrt().sum()}  # 0, with slope infinity

    with pytest.raises(FloatingPointError, match="The gradient is .* on worker 0 .*image.jpg"):
        _run(_step(Root(), [IMAGES]))


def test_a_bad_batch_can_be_skipped(tmp_path, caplog):
    model = Staged()
    step = _step(model, [BAD, GOOD], skip_non_finite=True, output_dir=str(tmp_path))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scalars = _run(step)
    assert scalars == {"non_finite_iterations": 1}
    for name, value in model.state_dict().items():  # the running statistics among them
        assert torch.equal(value, before[name]), name
    assert "bad.jpg" in caplog.text and not list(tmp_path.iterdir())

    scalars = _run(step)
    assert "total_loss" in scalars and step.num_skipped == 1
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])


def test_skipping_works_with_a_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    step = _step(Staged(), [BAD, GOOD], skip_non_finite=True, grad_scaler=scaler)
    assert math.isfinite(_run(step, iterations=4)["total_loss"])
    assert step.num_skipped == 2


def test_skipping_forever_is_not_possible():
    step = _step(Staged(), [BAD], skip_non_finite=True, max_consecutive_skips=3)
    with pytest.raises(FloatingPointError):
        _run(step, iterations=10)
    assert step.num_skipped == 4


def test_state_dict_round_trip():
    def make():
        model = Counting()
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        optimizer = torch.optim.AdamW(model.parameters())
        return _step(model, [IMAGES], optimizer=optimizer, grad_scaler=scaler)

    trained, fresh = make(), make()
    _run(trained, iterations=3)
    trained.num_skipped = 5
    trained.grad_scaler.update(2.0)
    state = trained.state_dict()
    assert {"iteration", "optimizer", "grad_scaler"} <= set(state)  # as detectron2's AMPTrainer
    fresh.load_state_dict(state)
    assert fresh.iter == 2 and fresh.num_skipped == 5 and fresh.grad_scaler.get_scale() == 2
    moments = [x.optimizer.state[x.model.layer.weight]["exp_avg"] for x in (trained, fresh)]
    assert torch.equal(*moments)


def test_an_optimizer_that_does_not_fit_is_explained():
    state = _step(Counting(), []).state_dict()
    other = Counting()
    groups = [{"params": [other.layer.weight]}, {"params": [other.layer.bias], "lr": 1.0}]
    with pytest.raises(ValueError, match="optimizer does not fit.*SOLVER.*MODEL.WEIGHTS"):
        _step(other, [], optimizer=torch.optim.SGD(groups, lr=0.1)).load_state_dict(state)
    adam = torch.optim.AdamW(other.parameters())
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER is another"):
        _step(other, [], optimizer=adam).load_state_dict(state)


def test_loader_is_started_by_the_first_step_and_can_be_replaced():
    def forbidden():
        raise AssertionError("started too early")
        yield

    model = Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(model, forbidden(), optimizer, clip_gradients=NO_CLIPPING)
    step.reset_data_loader(lambda: itertools.cycle([IMAGES]))
    _run(step)
    model.eval()
    with pytest.raises(AssertionError, match="eval mode"):
        _run(step)


def _worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    model = nn.parallel.DistributedDataParallel(Counting())
    exchanges = []

    def exchange(state, bucket):
        exchanges.append(bucket.index())
        return allreduce_hook(state, bucket)

    model.register_comm_hook(None, exchange)
    # Worker 0 has 3 + 0 objects, worker 1 has 1 + 4; then worker 1 alone has a bad batch.
    mine = [IMAGES[:1], IMAGES[1:2]] if rank == 0 else [IMAGES[2:3], IMAGES[3:]]
    bad = [_image(0.0, 1.0, 1, "good.jpg") if rank == 0 else _image(math.nan, 1.0, 1, "bad.jpg")]
    batches = [*mine, mine[0], bad, bad, mine[1]]
    step = TrainStep(
        model,
        iter(batches),
        torch.optim.SGD(model.parameters(), lr=0.1),
        clip_gradients=NO_CLIPPING,
        accumulate_steps=2,
    )
    scalars = _run(step)
    assert exchanges == [0]  # once, not for each micro-batch
    weights = [model.module.layer.weight.tolist()]
    step.skip_non_finite = True
    _run(step)
    assert step.num_skipped == 1
    weights.append(model.module.layer.weight.tolist())
    step.skip_non_finite = False
    with pytest.raises(FloatingPointError) as error:
        _run(step)
    message = str(error.value)
    (folder / f"{rank}.json").write_text(json.dumps([scalars, weights, message]))
    torch.distributed.barrier()
    # Gloo's threads at times abort the process while the interpreter shuts down.
    os._exit(0)


def test_two_workers_equal_one_big_batch(tmp_path):
    # By its path: under a module's name, a new process may find another package `tests`.
    command = [sys.executable, __file__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    workers = [
        subprocess.Popen([*command, str(rank), tmp_path], env=environment) for rank in range(2)
    ]
    assert [worker.wait() for worker in workers] == [0, 0]
    model = Counting()
    expected = _run(_step(model, [IMAGES]))
    for rank in range(2):
        scalars, weights, message = json.loads((tmp_path / f"{rank}.json").read_text())
        torch.testing.assert_close(torch.tensor(weights[0]), model.layer.weight.detach())
        assert weights[1] == weights[0]  # the bad iteration changed nothing, on either worker
        assert "loss_a, loss_b on worker 1 from images bad.jpg" in message, rank
        assert "worker 0" not in message
        if rank == 0:
            for name in ("loss_a", "loss_b", "total_loss", "grad_norm"):
                assert scalars[name] == pytest.approx(expected[name], rel=1e-5)


if __name__ == "__main__":  # a worker of the test above
    _worker(int(sys.argv[1]), Path(sys.argv[2]))

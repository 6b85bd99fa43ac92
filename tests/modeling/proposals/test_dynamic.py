import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from sparsercnn.engine.solver import build_optimizer
from sparsercnn.modeling import DynamicProposalGenerator, LearnedProposals, build_proposals
from sparsercnn.modeling.proposals.dynamic import _entropies, expert_boxes
from sparsercnn.modeling.proposals.learned import initial_boxes

C = 8


def make_generator(**kwargs):
    options = {"num_proposals": 5, "hidden_dim": C, "num_experts": 3}
    return DynamicProposalGenerator(**{**options, **kwargs})


def make_features(batch=2, height=64, width=96):
    """A pyramid whose maps halve and round up, and the images' sizes."""
    features = []
    for _ in range(4):
        height, width = -(-height // 2), -(-width // 2)
        features.append(torch.randn(batch, C, height, width))
    sizes = torch.tensor([16.0 * width, 16 * height, 16 * width, 16 * height]).repeat(batch, 1)
    return features, sizes


def make_small(**kwargs):
    """Strides 2 to 16, as in :func:`make_features`."""
    return make_generator(last_stride=16, **kwargs)


def test_one_expert_is_learned_proposals():
    torch.manual_seed(1)
    learned = LearnedProposals(num_proposals=5, hidden_dim=C)
    dynamic = make_small(num_experts=1)
    assert dynamic.init_proposal_boxes.weight.eq(learned.init_proposal_boxes.weight).all()
    with torch.no_grad():
        learned.init_proposal_boxes.weight.mul_(0.5 + 0.5 * torch.rand(5, 4))
        learned.init_proposal_boxes.weight[0, 0] = -0.05  # as training may leave it
    dynamic.load_state_dict(learned.state_dict())
    inputs = make_features()
    for ours, theirs in zip(dynamic(*inputs), learned(*inputs), strict=True):
        assert ours.tolist() == theirs.tolist()


def test_published_checkpoints_load_with_one_expert(tiny_cfg):
    published = build_model(tiny_cfg).state_dict()
    tiny_cfg.MODEL.SparseRCNN.PROPOSALS.NAME = "dynamic"
    tiny_cfg.MODEL.SparseRCNN.PROPOSALS.NUM_EXPERTS = 1
    build_model(tiny_cfg).load_state_dict(published, strict=True)


@pytest.mark.parametrize("num_experts", [1, 2, 3, 7])
def test_shapes(num_experts):
    boxes, proposal_features = make_small(num_experts=num_experts)(*make_features(3))
    assert boxes.shape == (3, 5, 4) and proposal_features.shape == (3, 5, C)


def test_proposals_are_their_own_weighted_means():
    generator = make_small(init="random", temperature=1.0).eval()
    with torch.no_grad():
        generator.expert_weights.linear2.bias.mul_(50)
    features, sizes = make_features()
    weights = generator.expert_weights(features, sizes)
    assert weights.shape == (2, 3, 5) and (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 5))
    assert (weights[0] - weights[1]).abs().max() > 1e-4, "each image has its own"
    assert (weights[0, :, 0] - weights[0, :, 1]).abs().max() > 1e-2, "so has each proposal"
    boxes, proposal_features = generator(features, sizes)
    all_boxes = generator.init_proposal_boxes.weight.view(3, 5, 4)
    all_features = generator.init_proposal_features.weight.view(3, 5, C)
    for b in range(2):
        for n in range(5):
            cx, cy, w, h = sum(weights[b, e, n] * all_boxes[e, n] for e in range(3))
            expected = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * sizes[b]
            torch.testing.assert_close(boxes[b, n], expected)
            expected = sum(weights[b, e, n] * all_features[e, n] for e in range(3))
            torch.testing.assert_close(proposal_features[b, n], expected)


@pytest.mark.parametrize("num_experts", [2, 3])
def test_boxes_are_valid_whatever_the_weights(num_experts):
    generator = make_small(num_experts=num_experts)
    features, sizes = make_features()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_(0, 3)
    boxes, _ = generator([10 * x for x in features], sizes)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 / sizes[:, None, :2]
    assert (centre >= -1e-5).all() and (centre <= 1 + 1e-5).all()
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_an_invalid_box_can_come_back():
    generator = make_small(num_experts=2)
    with torch.no_grad():
        generator.init_proposal_boxes.weight[:] = torch.tensor([-0.5, 1.5, -0.2, 0.5])
    features, sizes = make_features(1)
    target = torch.tensor([0.2, 0.2, 0.6, 0.6]) * sizes[:, None]
    optimizer = torch.optim.SGD(generator.init_proposal_boxes.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = ((generator(features, sizes)[0] - target) / sizes[:, None]).square().sum()
        loss.backward()
        optimizer.step()
    assert loss < 1e-4


@pytest.mark.parametrize("init", ["image", "center", "grid", "random"])
@pytest.mark.parametrize("num_proposals", [1, 7, 100])
def test_initial_boxes(init, num_proposals):
    boxes = initial_boxes(init, num_proposals)
    assert boxes.shape == (num_proposals, 4)
    assert (boxes > 0).all() or init == "random"
    assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, 2:] > 0).all()
    assert (expert_boxes(init, num_proposals, 1) == boxes).all() or init == "random"


@pytest.mark.parametrize("init", ["center", "grid", "random"])
def test_boxes_of_experts_differ_at_first(init):
    generator = make_generator(num_proposals=6, num_experts=4, init=init)
    experts = generator.init_proposal_boxes.weight.view(4, 6, 4)
    assert ((experts >= 0) & (experts <= 1)).all() and (experts[..., 2:] > 0).all()
    for one in range(4):
        for other in range(one):
            assert (experts[one] != experts[other]).any(-1).all()


def test_grids_of_experts_by_hand():
    # A grid of 2 x 2 cells; two experts, at 2^-1/2 and 2^1/2 of a cell's sides.
    small, large = expert_boxes("grid", 4, 2)
    assert small[:, :2].tolist() == large[:, :2].tolist()
    torch.testing.assert_close(small[:, 2:], torch.full((4, 2), 0.5**1.5))
    torch.testing.assert_close(large[:, 2:], torch.full((4, 2), 0.5**0.5))
    # Those of five experts, 1/4 to 4 times a cell, end at the image's size.
    assert expert_boxes("grid", 4, 5)[4, :, 2:].eq(1).all()


def test_published_start_is_the_whole_image_for_all_experts():
    assert (expert_boxes("image", 5, 3) == torch.tensor([0.5, 0.5, 1, 1])).all()


@pytest.mark.parametrize("num_experts", [1, 2, 4, 9])
def test_features_start_with_the_deviation_of_learned_ones(num_experts):
    torch.manual_seed(0)
    generator = make_generator(num_proposals=200, num_experts=num_experts, last_stride=16)
    _, proposal_features = generator(*make_features(1))
    assert proposal_features.std().item() == pytest.approx(1, abs=0.05)


def test_grid_covers_the_image():
    boxes = initial_boxes("grid", 6)  # two rows of three
    expected = [[c / 6, r / 4, 1 / 3, 1 / 2] for r in (1, 3) for c in (1, 3, 5)]
    torch.testing.assert_close(boxes, torch.tensor(expected))


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="INIT is 'corner'; it must be image, center, grid"):
        make_generator(init="corner")
    with pytest.raises(ValueError, match="NUM_EXPERTS is 0"):
        make_generator(num_experts=0)
    with pytest.raises(ValueError, match="TEMPERATURE is 0.5"):
        make_generator(temperature=0.5)
    with pytest.raises(ValueError, match="ANNEAL_ITERS"):
        make_generator(anneal_iters=-1)


@pytest.mark.parametrize("height,width", [(33, 97), (64, 100), (17, 250)])
def test_maps_of_odd_sizes(height, width):
    features, sizes = make_features(2, height, width)
    assert make_small()(features, sizes)[0].isfinite().all()


def test_maps_that_do_not_halve():
    features, sizes = make_features()
    features[2] = features[2][..., :-1]
    features[3] = torch.randn(2, C, 9, 3)
    assert make_small()(features, sizes)[0].isfinite().all()


@pytest.mark.parametrize("num_levels", [1, 3])
def test_other_numbers_of_levels(num_levels):
    features, sizes = make_features()
    generator = make_small(num_levels=num_levels)
    assert generator(features[-num_levels:], sizes)[0].isfinite().all()


def test_batch_padding_hardly_matters():
    """The weights come from the image's own area: twice the width of padding changes little."""
    generator = make_small(temperature=1.0).eval()
    features, sizes = make_features(1, 128, 128)
    padded = [nn.functional.pad(x, (0, x.shape[-1])) for x in features]
    alone = generator.expert_weights._logits(features, sizes)
    with_padding = generator.expert_weights._logits(padded, sizes)
    as_if_padding_were_image = generator.expert_weights._logits(padded, 2 * sizes)
    change = (with_padding - alone).norm()
    assert change < 0.25 * (as_if_padding_were_image - alone).norm()
    # Each image of a batch has its own area.
    both = [torch.cat([x, x]) for x in padded]
    logits = generator.expert_weights._logits(both, torch.cat([sizes, 2 * sizes]))
    torch.testing.assert_close(logits[:1], with_padding)
    torch.testing.assert_close(logits[1:], as_if_padding_were_image)


def test_temperature_falls_linearly_in_training_alone():
    generator = make_small(temperature=9.0, anneal_iters=4)
    inputs = make_features(1)
    temperature = generator.expert_weights.temperature
    seen = []
    for _ in range(6):
        seen.append(temperature.item())
        generator.eval()(*inputs)
        generator.train()
        with torch.no_grad():
            generator(*inputs)  # as when batch statistics are gathered
        generator(*inputs)
    assert seen == [9, 7, 5, 3, 1, 1]


def test_micro_batches_of_an_iteration_see_one_temperature():
    generator = make_small(temperature=9.0, anneal_iters=8, forwards_per_step=2)
    seen = []
    for _ in range(6):
        seen.append(generator.expert_weights.temperature.item())
        generator(*make_features(1))
    assert seen == [9, 9, 8, 8, 7, 7]


def test_no_annealing():
    generator = make_small(temperature=9.0, anneal_iters=0)
    generator(*make_features(1))
    assert generator.expert_weights.temperature == 1


def test_temperature_divides_the_logits():
    generator = make_small(temperature=4.0).eval()
    features, sizes = make_features()
    logits = generator.expert_weights._logits(features, sizes)
    weights = generator.expert_weights(features, sizes)
    torch.testing.assert_close(weights, (logits / 4).softmax(1))


def test_forward_passes_may_precede_their_backward_passes():
    generator = make_small(temperature=9.0, anneal_iters=4)
    total = sum(generator(*make_features(1))[1].square().sum() for _ in range(2))
    total.backward()
    assert generator.expert_weights.linear2.weight.grad.isfinite().all()


def test_temperature_goes_on_after_resuming(tiny_cfg, make_input):
    proposals = tiny_cfg.MODEL.SparseRCNN.PROPOSALS
    proposals.NAME, proposals.TEMPERATURE, proposals.ANNEAL_ITERS = "dynamic", 11.0, 10
    model = build_model(tiny_cfg)
    for _ in range(3):
        model([make_input((64, 64), [[5, 5, 40, 40]], [1])])
    state = model.state_dict()
    assert state["expert_weights.temperature"] == 8
    resumed = build_model(tiny_cfg)
    resumed.load_state_dict(state)
    resumed([make_input((64, 64), [[5, 5, 40, 40]], [1])])
    assert resumed.proposals.expert_weights.temperature == 7


def test_annealing_counts_iterations_not_micro_batches(tiny_cfg):
    proposals = tiny_cfg.MODEL.SparseRCNN.PROPOSALS
    proposals.NAME, proposals.TEMPERATURE, proposals.ANNEAL_ITERS = "dynamic", 7.0, 3
    tiny_cfg.SOLVER.ACCUMULATE_STEPS = 2
    generator = build_proposals(tiny_cfg)
    assert generator.expert_weights.decrement == 2  # 6 in 3 iterations
    assert generator.expert_weights.forwards_per_step == 2


def test_standardized_maps_know_neither_brightness_nor_contrast():
    features, sizes = make_features()
    for standardize in (False, True):
        weights = make_small(standardize=standardize).expert_weights
        weights.downsample.requires_grad_(False)
        for conv in weights.downsample:
            conv.weight.zero_()  # leaves the coarsest level alone
        change = weights._logits([3 * x + 1 for x in features], sizes)
        change = change - weights._logits(features, sizes)
        assert (change.abs().max() < 1e-3) == standardize


def test_weights_are_nearly_equal_at_first():
    features, sizes = make_features(4)
    weights = make_generator(last_stride=16, num_experts=4).expert_weights(features, sizes)
    assert (weights - 0.25).abs().max() < 0.005  # 2 %


def test_gradient_reaches_every_parameter():
    generator = make_small()
    boxes, proposal_features = generator(*make_features())
    (boxes.square().sum() / 100 + proposal_features.square().sum()).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_experts_specialise():
    """Two images that want other features: one set of experts could not tell them apart."""
    generator = make_small(num_experts=4, temperature=5.0, anneal_iters=40)
    inputs = make_features(2)
    wanted = torch.randn(2, 1, C)
    optimizer = torch.optim.AdamW(
        [
            {"params": generator.init_proposal_features.parameters(), "lr": 0.05},
            {"params": generator.expert_weights.parameters(), "lr": 0.001},
        ]
    )
    for _ in range(160):
        loss = (generator(*inputs)[1] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * wanted.var(0, unbiased=False).mean()


def test_mixed_precision_leaves_boxes_in_float32():
    generator = make_small(init="random").eval()
    features, sizes = make_features(1)
    exact = generator(features, sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        boxes, proposal_features = generator([x.bfloat16() for x in features], sizes)
    assert boxes.dtype == proposal_features.dtype == torch.float32
    torch.testing.assert_close(boxes, exact[0], atol=0.1, rtol=1e-3)
    torch.testing.assert_close(proposal_features, exact[1], atol=1e-2, rtol=1e-2)


def test_statistics_are_recorded_when_the_log_is_written():
    generator = make_small(temperature=9.0, anneal_iters=80)
    inputs = make_features(1)
    with EventStorage(0) as storage:
        for iteration in range(41):
            storage.iter = iteration
            generator(*inputs)
        recorded = storage.history("temperature").values()
        entropy, _ = storage.latest()["expert_entropy"]
        entropy_of_mean, _ = storage.latest()["expert_entropy_of_mean"]
    assert [x for _, x in recorded] == [19, 39]
    assert [x for x, _ in recorded] == pytest.approx([7.1, 5.1])
    assert 0.99 < entropy <= entropy_of_mean <= 1.0001


def test_entropies_by_hand():
    # Two images, four experts, one proposal: each image has one expert, and another one.
    weights = torch.eye(4)[:2, :, None]
    entropies = _entropies(weights)
    assert entropies["expert_entropy"] == 0
    assert entropies["expert_entropy_of_mean"] == pytest.approx(0.5)  # log 2 over log 4
    # The same expert for both.
    assert _entropies(weights[[0, 0]])["expert_entropy_of_mean"] == 0


def test_levels_must_tell_their_stride(tiny_cfg):
    tiny_cfg.MODEL.SparseRCNN.PROPOSALS.NAME = "dynamic"
    assert build_proposals(tiny_cfg).expert_weights.last_stride == 32
    tiny_cfg.MODEL.ROI_HEADS.IN_FEATURES = ["fine", "coarse"]
    with pytest.raises(ValueError, match="IN_FEATURES must be named .* got 'coarse'"):
        build_proposals(tiny_cfg)


@pytest.mark.parametrize("dynamic_k", [False, True])
def test_both_train_together(tiny_cfg, make_input, dynamic_k):
    sparse = tiny_cfg.MODEL.SparseRCNN
    sparse.PROPOSALS.NAME, sparse.MATCHER.NAME = "dynamic", "optimal_transport"
    sparse.MATCHER.DYNAMIC_K = dynamic_k
    sparse.NMS_THRESH_TEST = 0.7
    model = build_model(tiny_cfg)
    inputs = [
        make_input((64, 96), [[5, 5, 40, 40], [30, 10, 90, 60]], [1, 2]),
        make_input((48, 48)),
        make_input((40, 64), [[i, i, i + 20, i + 20] for i in range(9)], [0] * 9),
    ]
    optimizer = build_optimizer(tiny_cfg, model)
    totals = []
    for _ in range(4):
        total = sum(model(inputs).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    with torch.no_grad():
        assert len(model.eval()(inputs)) == 3

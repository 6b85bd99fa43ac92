import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from torch import nn

from sparsercnn.modeling.masks import MASK_HEAD_REGISTRY, DynamicMaskHead
from sparsercnn.modeling.masks import build as building

R, C, r, K = 5, 16, 4, 3


def make_head(**options):
    return DynamicMaskHead(
        **{"hidden_dim": C, "num_classes": K, "dim_dynamic": 6, "conv_dim": 10, **options}
    )


def make_arguments():
    return torch.randn(R, C), torch.randn(R, C, r, r), torch.tensor([0, 2, 1, 1, 0])


def test_number_of_parameters_is_that_of_the_published_head():
    """By the layers of its config: two matrices of C x 64 with norms, four convolutions with norms,
    the upsampling, and logits of 80 classes."""
    with torch.device("meta"):
        head = DynamicMaskHead(hidden_dim=256, num_classes=80)
    by_hand = [(256 + 1) * 2 * 256 * 64, 2 * (64 + 256), 4 * (256 * 256 * 9 + 2 * 256)]
    by_hand += [256 * 256 * 4 + 256, (256 + 1) * 80]
    assert sum(p.numel() for p in head.parameters()) == sum(by_hand) == 11_066_320


def test_logits_are_those_of_each_ones_class():
    head = make_head(norm="").eval()
    queries, roi_features, classes = make_arguments()
    seen = []
    head.deconv.register_forward_hook(lambda module, args, output: seen.append(output))
    found = head(queries, roi_features, classes)
    every_class = head.predictor(F.relu(seen[0]))
    assert every_class.shape == (R, K, 2 * r, 2 * r)
    torch.testing.assert_close(found, every_class[torch.arange(R), classes])


def test_pixels_stay_where_they_are():
    """Without convolutions, a pixel of the RoI feature reaches four cells of the mask alone."""
    head = make_head(num_conv=0).eval()
    queries, roi_features, classes = make_arguments()
    changed = roi_features.clone()
    changed[:, :, 1, 2] += 1
    before, after = (head(queries, x, classes) for x in (roi_features, changed))
    where = (before != after).any(0).nonzero()
    assert where.tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_masks_depend_on_their_own_query_alone():
    head = make_head().eval()
    queries, roi_features, classes = make_arguments()
    changed = queries.clone()
    changed[3] += 1
    before, after = (head(x, roi_features, classes) for x in (queries, changed))
    assert [not torch.equal(x, y) for x, y in zip(before, after, strict=True)] == [
        i == 3 for i in range(R)
    ]


def test_no_rois_give_no_masks():
    queries, roi_features, classes = (x[:0] for x in make_arguments())
    for norm in ("", "BN"):
        assert make_head(norm=norm).eval()(queries, roi_features, classes).shape == (0, 8, 8)


def test_initialisation():
    head = make_head(norm="BN")
    assert not head.predictor.bias.any() and head.mask_fcn1.bias is None
    bound = (6 / (C * 9 + 10 * 9)) ** 0.5  # of Xavier-uniform
    assert 0.9 * bound < head.mask_fcn1.weight.abs().max() <= bound


def test_another_head_is_named_in_the_config(mask_cfg, inputs, monkeypatch):
    class Constant(nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.value = nn.Parameter(torch.zeros(()))

        def forward(self, queries, roi_features, classes):
            assert len(queries) == len(roi_features) == len(classes)
            return self.value.expand(len(classes), 6, 6)

    registry = type(MASK_HEAD_REGISTRY)("MASK_HEAD")
    registry.register("constant")(Constant)
    monkeypatch.setattr(building, "MASK_HEAD_REGISTRY", registry)
    mask_cfg.MODEL.SparseRCNN.MASK.NAME = "constant"
    model = build_model(mask_cfg)
    sum(model(inputs).values()).backward()
    assert all(head.value.grad is not None for head in model.mask_branch.mask_head)
    with torch.no_grad():
        (result,) = model.eval()(inputs[:1], do_postprocess=False)
    assert result.pred_masks.eq(0.5).all() and result.pred_masks.shape[1:] == (1, 6, 6)

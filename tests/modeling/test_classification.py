import math

import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss

from sparsercnn.errors import ConfigError
from sparsercnn.modeling import (
    FocalClassification,
    LossWeights,
    SoftmaxClassification,
    build_classification,
    build_matching_cost,
)

FOCAL = FocalClassification(alpha=0.3, gamma=1.5)
SOFTMAX = SoftmaxClassification(no_object_weight=0.2)


def test_the_key_decides_and_no_other_place(tiny_cfg):
    sparse = tiny_cfg.MODEL.SparseRCNN
    sparse.ALPHA, sparse.GAMMA, sparse.PRIOR_PROB, sparse.NO_OBJECT_WEIGHT = 0.3, 1.5, 0.02, 0.2
    sparse.CLASS_WEIGHT, sparse.L1_WEIGHT, sparse.GIOU_WEIGHT = 1.0, 2.0, 3.0
    assert build_classification(tiny_cfg) == FocalClassification(0.3, 1.5, 0.02)
    assert build_matching_cost(tiny_cfg).weights == LossWeights(1.0, 2.0, 3.0)
    sparse.USE_FOCAL = False
    assert build_classification(tiny_cfg) == SOFTMAX
    assert build_matching_cost(tiny_cfg).classification == SOFTMAX


def test_logits_and_where_they_start():
    assert FOCAL.num_logits(7) == 7 and FOCAL.prior_prob == 0.01
    assert SOFTMAX.num_logits(7) == 8 and SOFTMAX.prior_prob is None


def test_scores_worked_by_hand():
    logits = torch.tensor([[0.0, math.log(3), -math.log(3)]])
    torch.testing.assert_close(FOCAL.scores(logits), torch.tensor([[0.5, 0.75, 0.25]]))
    # exp is 1, 3, 1/3, of 13/3; the last class is "no object", the second one the best.
    torch.testing.assert_close(SOFTMAX.scores(logits), torch.tensor([[-1.0, 9 / 13]]))


@pytest.mark.parametrize("classification", [FOCAL, SOFTMAX])
def test_loss_changes_by_what_is_said(classification):
    """The change from background to each object, proposal by proposal, from the losses alone."""
    S, B, N, K = 2, 2, 3, 4
    logits = torch.randn(S, B, N, classification.num_logits(K))
    classes = torch.randint(K, (B, 5))
    change = classification.loss_change(logits, classes)
    nobody = torch.zeros(S, B, N, dtype=torch.bool)
    any_class = torch.zeros(S, B, N, dtype=torch.int64)
    before = classification.loss(logits, any_class, nobody)
    for b, n, m in ((0, 2, 4), (1, 0, 1)):
        positive, label = nobody.clone(), any_class.clone()
        positive[:, b, n], label[:, b, n] = True, classes[b, m]
        after = classification.loss(logits, label, positive)
        torch.testing.assert_close(after - before, change[:, b, n, m], rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_fvcore_and_torch():
    logits = torch.randn(1, 2, 3, 4)
    classes = torch.tensor([[[0, 1, 2], [2, 1, 0]]])
    positive = torch.tensor([[[True, False, True], [False, False, True]]])
    labels = F.one_hot(classes, 4) * positive[..., None]
    expected = sigmoid_focal_loss(logits, labels.float(), 0.3, 1.5, "sum")
    torch.testing.assert_close(FOCAL.loss(logits, classes, positive), expected[None])
    assert FOCAL.normalizer(classes, positive) is None

    labels = torch.where(positive, classes, 3).flatten()
    weights = torch.tensor([1.0, 1.0, 1.0, 0.2])
    mean = F.cross_entropy(logits.view(-1, 4), labels, weights)
    loss = SOFTMAX.loss(logits, classes, positive) / SOFTMAX.normalizer(classes, positive)
    torch.testing.assert_close(loss, mean[None])
    torch.testing.assert_close(SOFTMAX.normalizer(classes, positive), torch.tensor([3 + 3 * 0.2]))


def test_class_weights_by_hand():
    """Each class has its own factor; background has that of the class, or of "no object"."""
    classes = torch.tensor([[[0, 1]]])
    positive = torch.tensor([[[True, False]]])
    weights = (5.0, 0.5)
    logits = torch.randn(1, 1, 2, 2)
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    parts = sigmoid_focal_loss(logits[0, 0], labels, 0.3, 1.5)
    expected = 5.0 * parts[:, 0].sum() + 0.5 * parts[:, 1].sum()
    weighted = FocalClassification(alpha=0.3, gamma=1.5, class_weights=weights)
    torch.testing.assert_close(weighted.loss(logits, classes, positive), expected[None])
    torch.testing.assert_close(
        weighted.cost(logits, classes[0]), FOCAL.cost(logits, classes[0]), rtol=0, atol=0
    )

    logits = torch.randn(1, 1, 2, 3)
    weighted = SoftmaxClassification(no_object_weight=0.2, class_weights=weights)
    mean = F.cross_entropy(logits[0, 0], torch.tensor([0, 2]), torch.tensor([5.0, 0.5, 0.2]))
    normalizer = weighted.normalizer(classes, positive)
    torch.testing.assert_close(weighted.loss(logits, classes, positive) / normalizer, mean[None])
    torch.testing.assert_close(normalizer, torch.tensor([5.2]))


def test_class_weights_first_used_in_inference_can_be_trained_with():
    classification = FocalClassification(class_weights=(1.25, 2.5))
    logits, classes = torch.zeros(1, 1, 2, 2), torch.tensor([[[0, 1]]])
    positive = torch.tensor([[[True, False]]])
    with torch.inference_mode():
        expected = classification.loss(logits, classes, positive)
    found = classification.loss(logits.requires_grad_(), classes, positive)
    found.sum().backward()
    assert found.item() == expected.item() and logits.grad.any()


def test_class_weights_that_do_not_fit_are_refused(tiny_cfg):
    tiny_cfg.MODEL.SparseRCNN.NUM_CLASSES = 3
    tiny_cfg.MODEL.SparseRCNN.CLASS_WEIGHTS = (1.0, 2.0)
    with pytest.raises(ConfigError, match="a number for each of the 3 classes"):
        build_classification(tiny_cfg)


def test_the_key_of_class_weights(tiny_cfg):
    tiny_cfg.MODEL.SparseRCNN.NUM_CLASSES = 2
    tiny_cfg.MODEL.SparseRCNN.CLASS_WEIGHTS = [1.0, 4.0]
    assert build_classification(tiny_cfg).class_weights == (1.0, 4.0)

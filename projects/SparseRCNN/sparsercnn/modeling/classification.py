"""Two ways to classify a proposal: a sigmoid for each class, or a softmax with "no object".

Each class defines all that follows from the choice: number and initial bias of the logits, matching
cost, loss and its divisor, scores at inference. With `has_normalizer`, the class loss has its own
divisor.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss

from ..errors import ConfigError

__all__ = [
    "FocalClassification",
    "SoftmaxClassification",
    "build_classification",
    "focal_cost",
    "softmax_cost",
]


def build_classification(cfg):
    """Build the classification that ``MODEL.SparseRCNN.USE_FOCAL`` selects.

    Raises:
        ConfigError: ``CLASS_WEIGHTS`` has not one number per class.
    """
    sparse = cfg.MODEL.SparseRCNN
    weights = tuple(sparse.CLASS_WEIGHTS)
    if weights and len(weights) != sparse.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.SparseRCNN.CLASS_WEIGHTS is {weights}; it must have a number for each of the "
            f"{sparse.NUM_CLASSES} classes, or be () for none."
        )
    if sparse.USE_FOCAL:
        return FocalClassification(
            alpha=sparse.ALPHA,
            gamma=sparse.GAMMA,
            prior_prob=sparse.PRIOR_PROB,
            class_weights=weights,
        )
    return SoftmaxClassification(no_object_weight=sparse.NO_OBJECT_WEIGHT, class_weights=weights)


@dataclass(frozen=True)
class FocalClassification:
    """A sigmoid for each class, with the focal loss (Focal Loss, ICCV 2017).

    Attributes:
        alpha, gamma: of the loss.
        prior_prob: initial score of every class.
        class_weights: K factors on the loss of each class, of objects and background alike, so that
            they do not shift its scores; (): 1. Matching costs are without them.
    """

    alpha: float = 0.25
    gamma: float = 2.0
    prior_prob: float = 0.01
    class_weights: tuple = ()
    has_normalizer = False

    def num_logits(self, num_classes):
        """int: K."""
        return num_classes

    def cost(self, class_logits, classes):
        """(S, B, N, M), the class cost of one-to-one matching, see :func:`focal_cost`."""
        return focal_cost(class_logits, classes, self.alpha, self.gamma)

    def loss_change(self, class_logits, classes):
        """(S, B, N, M), change of the loss if the proposal is matched with the object instead of
        background. Only the term of the object's class changes, so this is :meth:`cost`."""
        return self.cost(class_logits, classes)

    def loss(self, class_logits, classes, positive):
        """
        Args:
            class_logits: (S, B, N, K), before the sigmoid.
            classes: (S, B, N), in [0, K), of the matched objects.
            positive: (S, B, N), False for background, whose class is ignored.

        Returns:
            Tensor: (S,), the sum over proposals and classes.
        """
        labels = torch.zeros_like(class_logits)
        labels.scatter_(-1, classes[..., None], positive[..., None].to(labels.dtype))
        loss = sigmoid_focal_loss(class_logits, labels, self.alpha, self.gamma)
        if self.class_weights:
            loss = loss * _on_device(self.class_weights, loss.device)
        return loss.sum(dim=(1, 2, 3))

    def normalizer(self, classes, positive):
        """None: the loss has the divisor of the box losses."""
        return None

    def scores(self, class_logits):
        """(..., K), in [0, 1]."""
        return class_logits.sigmoid()


@dataclass(frozen=True)
class SoftmaxClassification:
    """A softmax over the classes and "no object", which comes last (DETR, section 3.1).

    Attributes:
        no_object_weight: class weight of "no object" in the loss.
        class_weights: those of the K classes; (): 1. Matching costs are without them.
    """

    no_object_weight: float = 0.1
    class_weights: tuple = ()
    has_normalizer = True
    prior_prob = None  # a softmax starts with about the same score for all classes

    def num_logits(self, num_classes):
        """int: K + 1."""
        return num_classes + 1

    def cost(self, class_logits, classes):
        """(S, B, N, M), the class cost of one-to-one matching, see :func:`softmax_cost`."""
        return softmax_cost(class_logits, classes)

    def loss_change(self, class_logits, classes):
        """(S, B, N, M), change of the loss if the proposal is matched with the object instead of
        background: cross-entropy of the object's class minus the weighted one of "no object"."""
        log_p = class_logits.float().log_softmax(dim=-1)
        return self.no_object_weight * log_p[..., -1:] - _of_objects(log_p, classes)

    def loss(self, class_logits, classes, positive):
        """
        Args:
            class_logits: (S, B, N, K + 1), before the softmax.
            classes: (S, B, N), in [0, K), of the matched objects.
            positive: (S, B, N), False for background, whose class is ignored.

        Returns:
            Tensor: (S,), the sum over proposals of the cross-entropy, weighted by class.
        """
        no_object = class_logits.shape[-1] - 1
        classes = torch.where(positive, classes, no_object)
        loss = F.cross_entropy(class_logits.movedim(-1, 1), classes, reduction="none")
        return (self._weights(classes, positive) * loss).sum(dim=(1, 2))

    def normalizer(self, classes, positive):
        """(S,), the sum of the class weights on this worker, which makes the loss a mean."""
        return self._weights(classes, positive).sum(dim=(1, 2))

    def scores(self, class_logits):
        """(..., K), in [0, 1] for the best class of a proposal and -1 for all others."""
        scores = class_logits.softmax(-1)[..., :-1]
        best = scores.max(-1, keepdim=True).values
        return torch.where(scores == best, scores, -1.0)

    def _weights(self, classes, positive):
        if not self.class_weights:
            return torch.where(positive, 1.0, self.no_object_weight)
        weights = _on_device(self.class_weights, positive.device)
        return torch.where(positive, weights[classes.where(positive, 0)], self.no_object_weight)


@lru_cache
def _on_device(weights, device):
    """The numbers as a tensor that is copied to a device once, not in every step."""
    with torch.inference_mode(False):  # or training could not use it after an inference
        return torch.tensor(weights, dtype=torch.float32, device=device)


def focal_cost(class_logits, classes, alpha=0.25, gamma=2.0):
    """Change of the focal loss of the object's class if the proposal is matched with the object.

    FL+(p) - FL-(p) at the object's class, with FL+ = -alpha (1 - p)^gamma log p and
    FL- = -(1 - alpha) p^gamma log(1 - p) (Focal Loss, ICCV 2017; Sparse R-CNN, section 3.3).

    Args:
        class_logits: (S, B, N, K), before the sigmoid.
        classes: (B, M), in [0, K).

    Returns:
        Tensor: (S, B, N, M).
    """
    logits = _of_objects(class_logits, classes)
    score = logits.sigmoid()
    positive = -alpha * (1 - score) ** gamma * F.logsigmoid(logits)
    negative = -(1 - alpha) * score**gamma * F.logsigmoid(-logits)
    return positive - negative


def softmax_cost(class_logits, classes):
    """Minus the probability of the object's class (DETR, section 3.1).

    Args:
        class_logits: (S, B, N, K + 1), before the softmax; the last one is "no object".
        classes: (B, M), in [0, K).

    Returns:
        Tensor: (S, B, N, M).
    """
    return -_of_objects(class_logits.softmax(-1), classes)


def _of_objects(values, classes):
    """(S, B, N, M), the values (S, B, N, K) at the objects' classes (B, M)."""
    S, _, N, _ = values.shape
    index = classes[None, :, None].expand(S, -1, N, -1)
    return values.gather(-1, index)

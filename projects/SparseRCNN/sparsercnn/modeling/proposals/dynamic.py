"""Proposals mixed from experts for each image (Dynamic Sparse R-CNN, section 3.3).

Dimension letters in addition to those of :mod:`sparsercnn.structures`: E experts.
"""

import math

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from fvcore.nn import weight_init
from torch import nn
from torchvision.ops import box_convert, roi_align

from ...errors import ConfigError
from ..training_log import put_statistics, statistics_due
from .build import PROPOSALS_REGISTRY
from .learned import initial_boxes

__all__ = ["DynamicProposalGenerator", "ExpertWeights", "expert_boxes"]

_MAP_SIZE = 30  # side of the map from which the weights are computed
_HIDDEN_DIM = 1500
_SMALLEST_BOX = 1e-3  # of an image's width or height


@PROPOSALS_REGISTRY.register("dynamic")
class DynamicProposalGenerator(nn.Module):
    """E sets of N learned boxes and features, averaged with weights per image and proposal.

    With one expert there are no weights to predict, and the module equals
    :class:`~sparsercnn.modeling.proposals.LearnedProposals`, including its checkpoint.
    """

    @configurable
    def __init__(self, *, num_proposals, hidden_dim, num_experts=4, init="image", **weighting):
        """
        Args:
            num_proposals (int): N.
            hidden_dim (int): C, channels of proposal features and of the pyramid's maps.
            num_experts (int): E.
            init (str): initial boxes, see :func:`expert_boxes`.
            weighting: options of :class:`ExpertWeights`; unused with one expert.

        Raises:
            ConfigError: `num_experts` below 1, or an unknown `init`.
        """
        super().__init__()
        if num_experts < 1:
            raise ConfigError(
                f"MODEL.SparseRCNN.PROPOSALS.NUM_EXPERTS is {num_experts}; it must be 1 or more."
            )
        self.num_experts = num_experts
        self.num_proposals = num_proposals
        self.init_proposal_features = nn.Embedding(num_experts * num_proposals, hidden_dim)
        # cx cy w h as fractions of the image's size.
        self.init_proposal_boxes = nn.Embedding(num_experts * num_proposals, 4)
        with torch.no_grad():
            # Averaging E independent features divides their deviation by sqrt(E).
            self.init_proposal_features.weight.mul_(math.sqrt(num_experts))
            boxes = expert_boxes(init, num_proposals, num_experts)
            self.init_proposal_boxes.weight.copy_(boxes.flatten(0, 1))
        self.expert_weights = None
        if num_experts > 1:
            self.expert_weights = ExpertWeights(
                num_proposals=num_proposals,
                num_experts=num_experts,
                in_channels=hidden_dim,
                **weighting,
            )

    @classmethod
    def from_config(cls, cfg):
        sparse = cfg.MODEL.SparseRCNN
        levels = cfg.MODEL.ROI_HEADS.IN_FEATURES
        return {
            "num_proposals": sparse.NUM_PROPOSALS,
            "hidden_dim": sparse.HIDDEN_DIM,
            "num_levels": len(levels),
            "last_stride": _stride(levels[-1]),
            "num_experts": sparse.PROPOSALS.NUM_EXPERTS,
            "init": sparse.PROPOSALS.INIT,
            "temperature": sparse.PROPOSALS.TEMPERATURE,
            "anneal_iters": sparse.PROPOSALS.ANNEAL_ITERS,
            "forwards_per_step": cfg.SOLVER.ACCUMULATE_STEPS,
            "standardize": sparse.PROPOSALS.STANDARDIZE,
        }

    def forward(self, features, image_sizes):
        """See :mod:`sparsercnn.modeling.proposals`."""
        E, N = self.num_experts, self.num_proposals
        boxes = self.init_proposal_boxes.weight.view(E, N, 4)
        proposal_features = self.init_proposal_features.weight.view(E, N, -1)
        if self.expert_weights is None:
            B = image_sizes.shape[0]
            boxes, proposal_features = boxes.expand(B, -1, -1), proposal_features.expand(B, -1, -1)
        else:
            weights = self.expert_weights(features, image_sizes)
            # Product and sum stay in float32 under autocast; a matrix product would not.
            boxes = (weights[..., None] * boxes).sum(1)
            proposal_features = (weights[..., None] * proposal_features).sum(1)
            boxes = _make_valid(boxes)
        boxes = box_convert(boxes, "cxcywh", "xyxy") * image_sizes[:, None]
        return boxes, proposal_features


class ExpertWeights(nn.Module):
    """W = softmax over experts of F / tau, with scores F computed from the pyramid.

    The finest map is downsampled by a stride-2 3x3 convolution and concatenated with the next one,
    repeatedly, down to the coarsest. The channels of the result are averaged, the area of the
    image (without batch padding, which differs between training and inference) is resized to
    30 x 30, and two linear layers, 900 -> 1500 -> E * N, give F.

    The values of that map are small: F and W differ little between images (F by 0.07 after 200
    iterations on 320 x 240 pixels). With `standardize`, which the paper does not have, each map
    has mean 0 and deviation 1.

    With tau 30, all experts learn from every image; with tau 1, they can specialise. The annealing
    is that of "Dynamic Convolution" (CVPR 2020, section 3.3).
    """

    def __init__(
        self,
        *,
        num_proposals,
        num_experts,
        in_channels,
        num_levels=4,
        last_stride=32,
        temperature=30.0,
        anneal_iters=3000,
        forwards_per_step=1,
        standardize=False,
    ):
        """
        Args:
            num_proposals (int): N.
            num_experts (int): E.
            in_channels (int): C, channels of the pyramid's maps.
            num_levels (int): number of maps in the pyramid.
            last_stride (int): stride of the coarsest map, in pixels.
            temperature (float): initial tau.
            anneal_iters (int): optimizer steps until tau is 1.
            forwards_per_step (int): forward passes per optimizer step; tau is the same in all of
                them.
            standardize (bool): standardise the map from which W is computed to mean 0 and
                deviation 1.

        Raises:
            ConfigError: `temperature` below 1, or `anneal_iters` below 0.
        """
        super().__init__()
        if temperature < 1:
            raise ConfigError(
                f"MODEL.SparseRCNN.PROPOSALS.TEMPERATURE is {temperature}; it must be 1 or more."
            )
        if anneal_iters < 0:
            raise ConfigError("MODEL.SparseRCNN.PROPOSALS.ANNEAL_ITERS must not be negative.")
        self.num_experts = num_experts
        self.last_stride = last_stride
        self.standardize = standardize
        self.downsample = nn.ModuleList(
            nn.Conv2d(in_channels if i == 0 else 2 * in_channels, in_channels, 3, 2, 1)
            for i in range(num_levels - 1)
        )
        self.linear1 = nn.Linear(_MAP_SIZE * _MAP_SIZE, _HIDDEN_DIM)
        self.linear2 = nn.Linear(_HIDDEN_DIM, num_experts * num_proposals)
        for conv in self.downsample:
            weight_init.c2_msra_fill(conv)
        # Saved in the checkpoint, for resumed runs and for inference.
        start = float(temperature) if anneal_iters > 0 else 1.0
        self.register_buffer("temperature", torch.tensor(start))
        self.decrement = (temperature - 1) / max(anneal_iters, 1)
        self.forwards_per_step = forwards_per_step
        self._forwards = 0

    def forward(self, features, image_sizes):
        """
        Args:
            features (list[Tensor]): the pyramid's maps, finest first, each (B, C, H_l, W_l).
            image_sizes: (B, 4), (w, h, w, h) in pixels before batch padding.

        Returns:
            Tensor: (B, E, N), float32, positive, with sum 1 over the experts.
        """
        logits = self._logits(features, image_sizes).float()
        # Divide by a copy: the backward pass needs the value before the update below.
        weights = (logits / self.temperature.clone()).softmax(1)
        if statistics_due("temperature"):
            put_statistics({"temperature": self.temperature, **_entropies(weights.detach())})
        # Not without gradients, as in passes that only update batch norm statistics.
        if self.training and torch.is_grad_enabled():
            self._forwards += 1
            if self._forwards % self.forwards_per_step == 0:
                self.temperature.sub_(self.decrement).clamp_(min=1)
        return weights

    def _logits(self, features, image_sizes):
        """F, (B, E, N)."""
        x = features[0]
        for conv, next_level in zip(self.downsample, features[1:], strict=True):
            x = F.relu(conv(x))
            # Stride 2 halves and rounds up, as backbones do; a neck may round differently.
            if x.shape[-2:] != next_level.shape[-2:]:
                x = F.interpolate(x, next_level.shape[-2:], mode="bilinear", align_corners=False)
            x = torch.cat([x, next_level], dim=1)
        x = _resize_images(x.mean(1, keepdim=True), image_sizes, self.last_stride).flatten(1)
        if self.standardize:
            x = F.layer_norm(x, x.shape[1:])
        x = self.linear2(F.relu(self.linear1(x)))
        return x.view(x.shape[0], self.num_experts, -1)


def expert_boxes(init, num_proposals, num_experts):
    """Initial boxes of each expert.

    They follow :func:`~sparsercnn.modeling.proposals.learned.initial_boxes`, but differ between
    experts, because equal boxes stay nearly equal: their gradients differ only by the factor W,
    which Adam cancels.

        * center, grid: boxes of expert e are scaled by 2^(e - (E - 1) / 2), at most to the size of
          the image;
        * random: each expert draws its own boxes;
        * image, the published initialisation: boxes are equal, only features differ.

    Returns:
        Tensor: (E, N, 4), cx cy w h as fractions of the image's size.
    """
    boxes = torch.stack([initial_boxes(init, num_proposals) for _ in range(num_experts)])
    if init in ("center", "grid"):
        scale = 2.0 ** (torch.arange(num_experts) - (num_experts - 1) / 2)
        boxes[..., 2:] = (boxes[..., 2:] * scale[:, None, None]).clamp(max=1)
    return boxes


def _stride(level):
    """Stride of a map by detectron2's naming convention: p5 has stride 2^5."""
    if not level[1:].isdigit():
        raise ConfigError(
            "With MODEL.SparseRCNN.PROPOSALS.NAME 'dynamic', MODEL.ROI_HEADS.IN_FEATURES must be "
            f"named after their strides, p2, p3, ...; got '{level}'."
        )
    return 2 ** int(level[1:])


def _resize_images(maps, image_sizes, stride):
    """(B, 1, 30, 30), float32: the part of each map (B, 1, H, W) that is image, not padding,
    resized by bilinear interpolation."""
    B = maps.shape[0]
    origin = image_sizes.new_zeros(B, 2)
    index = torch.arange(B, device=maps.device, dtype=image_sizes.dtype)[:, None]
    rois = torch.cat([index, origin, image_sizes[:, :2]], dim=1)
    # One sample at the centre of each bin.
    return roi_align(maps.float(), rois, _MAP_SIZE, 1 / stride, sampling_ratio=1, aligned=True)


def _make_valid(boxes):
    """Clamp boxes (..., 4), cx cy w h, to a centre in [0, 1] and a positive size.

    The gradient is that of the identity, which lets a clamped box recover.
    """
    with torch.no_grad():
        centre = boxes[..., :2].clamp(0, 1)
        size = boxes[..., 2:].clamp(min=_SMALLEST_BOX)
        change = torch.cat([centre, size], dim=-1) - boxes
    return boxes + change


def _entropies(weights):
    """Entropies of W (B, E, N) over experts, relative to equal weights, averaged over proposals.

    The first is the mean entropy of W, the second the entropy of W averaged over the batch. Their
    difference is the mutual information of image and expert: if they are equal, all images get the
    same mixture.
    """

    def entropy(weights):
        return torch.special.entr(weights).sum(-2).mean() / math.log(weights.shape[-2])

    return {"expert_entropy": entropy(weights), "expert_entropy_of_mean": entropy(weights.mean(0))}

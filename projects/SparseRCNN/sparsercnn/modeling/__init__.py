"""The detectors and their parts; importing registers them with detectron2."""

from .attention_fpn import MSCA, MSSA, build_resnet_attention_fpn_backbone
from .cascade_mask_heads import CascadeMaskROIHeads
from .classification import FocalClassification, SoftmaxClassification, build_classification
from .criterion import SetCriterion
from .danet import DANetHead
from .danet_attention import (
    DANET_ATTENTION_REGISTRY,
    ChannelAttention,
    PositionAttention,
    add_res5_attention,
    build_danet_attention,
)
from .detector import SparseRCNN
from .dilated_resnet import build_dilated_resnet_backbone
from .dynamic_proposals import DynamicProposalGenerator
from .head import IterativeHead, Stage
from .interaction import INTERACTION_REGISTRY, DualAttention, DynamicConv, build_interaction
from .matching import (
    MATCHER_REGISTRY,
    HungarianMatcher,
    LossWeights,
    MatchingCost,
    OptimalTransportMatcher,
    build_matcher,
    build_matching_cost,
)
from .pooler import PyramidRoIAlign
from .proposals import PROPOSALS_REGISTRY, LearnedProposals, build_proposals
from .sem_seg_inference import SemSegInference, with_sem_seg_inference
from .test_time_augmentation import SparseRCNNWithTTA

__all__ = [
    "DANET_ATTENTION_REGISTRY",
    "INTERACTION_REGISTRY",
    "MATCHER_REGISTRY",
    "MSCA",
    "MSSA",
    "PROPOSALS_REGISTRY",
    "CascadeMaskROIHeads",
    "ChannelAttention",
    "DANetHead",
    "DualAttention",
    "DynamicConv",
    "DynamicProposalGenerator",
    "FocalClassification",
    "HungarianMatcher",
    "IterativeHead",
    "LearnedProposals",
    "LossWeights",
    "MatchingCost",
    "OptimalTransportMatcher",
    "PositionAttention",
    "PyramidRoIAlign",
    "SemSegInference",
    "SetCriterion",
    "SoftmaxClassification",
    "SparseRCNN",
    "SparseRCNNWithTTA",
    "Stage",
    "add_res5_attention",
    "build_classification",
    "build_danet_attention",
    "build_dilated_resnet_backbone",
    "build_interaction",
    "build_matcher",
    "build_matching_cost",
    "build_proposals",
    "build_resnet_attention_fpn_backbone",
    "with_sem_seg_inference",
]

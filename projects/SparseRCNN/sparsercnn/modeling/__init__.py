"""The detectors and their parts; importing registers them with detectron2."""

from .backbones import (
    TimmBackbone,
    ViT,
    add_res5_attention,
    build_dilated_resnet_backbone,
    build_timm_backbone,
)
from .classification import FocalClassification, SoftmaxClassification, build_classification
from .criterion import SetCriterion
from .detector import SparseRCNN
from .head import IterativeHead, Stage
from .interaction import INTERACTION_REGISTRY, DualAttention, DynamicConv, build_interaction
from .masks import (
    MASK_HEAD_REGISTRY,
    CascadeMaskROIHeads,
    DynamicMaskHead,
    MaskBranch,
    build_mask_head,
)
from .matching import (
    MATCHER_REGISTRY,
    HungarianMatcher,
    LossWeights,
    MatchingCost,
    OptimalTransportMatcher,
    build_matcher,
    build_matching_cost,
)
from .necks import (
    MSCA,
    MSSA,
    SimpleFeaturePyramid,
    build_resnet_attention_fpn_backbone,
    build_timm_fpn_backbone,
    build_vit_backbone,
)
from .pooler import PyramidRoIAlign
from .proposals import (
    PROPOSALS_REGISTRY,
    DynamicProposalGenerator,
    LearnedProposals,
    build_proposals,
)
from .segmentation import (
    DANET_ATTENTION_REGISTRY,
    ChannelAttention,
    DANetHead,
    PositionAttention,
    SemSegInference,
    build_danet_attention,
    with_sem_seg_inference,
)
from .tta import SparseRCNNWithTTA

__all__ = [
    "DANET_ATTENTION_REGISTRY",
    "INTERACTION_REGISTRY",
    "MASK_HEAD_REGISTRY",
    "MATCHER_REGISTRY",
    "MSCA",
    "MSSA",
    "PROPOSALS_REGISTRY",
    "CascadeMaskROIHeads",
    "ChannelAttention",
    "DANetHead",
    "DualAttention",
    "DynamicConv",
    "DynamicMaskHead",
    "DynamicProposalGenerator",
    "FocalClassification",
    "HungarianMatcher",
    "IterativeHead",
    "LearnedProposals",
    "LossWeights",
    "MaskBranch",
    "MatchingCost",
    "OptimalTransportMatcher",
    "PositionAttention",
    "PyramidRoIAlign",
    "SemSegInference",
    "SetCriterion",
    "SimpleFeaturePyramid",
    "SoftmaxClassification",
    "SparseRCNN",
    "SparseRCNNWithTTA",
    "Stage",
    "TimmBackbone",
    "ViT",
    "add_res5_attention",
    "build_classification",
    "build_danet_attention",
    "build_dilated_resnet_backbone",
    "build_interaction",
    "build_mask_head",
    "build_matcher",
    "build_matching_cost",
    "build_proposals",
    "build_resnet_attention_fpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "build_vit_backbone",
    "with_sem_seg_inference",
]

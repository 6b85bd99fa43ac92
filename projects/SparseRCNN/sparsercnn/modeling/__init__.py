"""The detectors and their parts; importing registers them with detectron2."""

from .criterion import SetCriterion
from .detector import SparseRCNN
from .head import IterativeHead, Stage
from .interaction import INTERACTION_REGISTRY, DynamicConv, build_interaction
from .matching import MATCHER_REGISTRY, HungarianMatcher, build_matcher
from .pooler import PyramidRoIAlign
from .proposals import PROPOSALS_REGISTRY, LearnedProposals, build_proposals
from .test_time_augmentation import SparseRCNNWithTTA

__all__ = [
    "INTERACTION_REGISTRY",
    "MATCHER_REGISTRY",
    "PROPOSALS_REGISTRY",
    "DynamicConv",
    "HungarianMatcher",
    "IterativeHead",
    "LearnedProposals",
    "PyramidRoIAlign",
    "SetCriterion",
    "SparseRCNN",
    "SparseRCNNWithTTA",
    "Stage",
    "build_interaction",
    "build_matcher",
    "build_proposals",
]

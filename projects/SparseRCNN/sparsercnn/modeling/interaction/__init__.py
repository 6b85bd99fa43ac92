"""Interaction of a proposal feature with its RoI feature.

An interaction is a module ``interaction(proposal_features, roi_features) -> update``:

* proposal_features: (R, C), R = B * N proposals after self-attention and LayerNorm.
* roi_features: (R, C, r, r).
* update: (R, C), which the stage adds to the proposal features.

An interaction initialises its own weights, in its constructor or in a method
``reset_parameters()``, which the stage calls after all stages are built.
"""

from .build import INTERACTION_REGISTRY, build_interaction
from .dual_attention import DualAttention
from .dynamic_conv import DynamicConv

__all__ = ["INTERACTION_REGISTRY", "DualAttention", "DynamicConv", "build_interaction"]

from ...registry import NamedRegistry

__all__ = ["INTERACTION_REGISTRY", "build_interaction"]

INTERACTION_REGISTRY = NamedRegistry("INTERACTION")


def build_interaction(cfg):
    """Build the module that ``MODEL.SparseRCNN.INTERACTION`` names."""
    return INTERACTION_REGISTRY.get(cfg.MODEL.SparseRCNN.INTERACTION)(cfg)

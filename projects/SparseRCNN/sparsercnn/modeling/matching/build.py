from ...registry import NamedRegistry

__all__ = ["MATCHER_REGISTRY", "build_matcher"]

MATCHER_REGISTRY = NamedRegistry("MATCHER")


def build_matcher(cfg):
    """Build the matcher that ``MODEL.SparseRCNN.MATCHER.NAME`` names."""
    return MATCHER_REGISTRY.get(cfg.MODEL.SparseRCNN.MATCHER.NAME)(cfg)

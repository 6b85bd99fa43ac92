from ...registry import NamedRegistry

__all__ = ["MASK_HEAD_REGISTRY", "build_mask_head"]

MASK_HEAD_REGISTRY = NamedRegistry("MASK_HEAD")


def build_mask_head(cfg):
    """Build the module that ``MODEL.SparseRCNN.MASK.NAME`` names."""
    return MASK_HEAD_REGISTRY.get(cfg.MODEL.SparseRCNN.MASK.NAME)(cfg)

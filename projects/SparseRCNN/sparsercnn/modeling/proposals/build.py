from ...registry import NamedRegistry

__all__ = ["PROPOSALS_REGISTRY", "build_proposals"]

PROPOSALS_REGISTRY = NamedRegistry("PROPOSALS")


def build_proposals(cfg):
    """Build the generator that ``MODEL.SparseRCNN.PROPOSALS.NAME`` names."""
    return PROPOSALS_REGISTRY.get(cfg.MODEL.SparseRCNN.PROPOSALS.NAME)(cfg)

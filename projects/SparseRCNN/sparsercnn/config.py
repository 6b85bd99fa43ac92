"""The configuration keys that this project adds to detectron2's."""

import copy

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from .config_schema import rows

__all__ = ["add_sparsercnn_config", "detections_per_image"]


def add_sparsercnn_config(cfg: CN) -> None:
    """Add the keys of Sparse R-CNN and its variants to a detectron2 config, in place.

    All keys of the original Sparse R-CNN project keep their name, meaning and default; its YAML
    files load unchanged. The keys are in the table of ``config_schema.py``.

    Args:
        cfg (CfgNode): a config as returned by :func:`detectron2.config.get_cfg`.
    """
    for key, row in rows().items():
        if row.is_own:
            *sections, name = key.split(".")
            node = cfg
            for section in sections:
                node = node.setdefault(section, CN())
            node[name] = copy.deepcopy(row.default)
    # In whole configs, as checkpoints hold them, from before the first release; always False.
    if not cfg.key_is_deprecated("MODEL.FPN.DUAL_ATTENTION"):
        cfg.register_deprecated_key("MODEL.FPN.DUAL_ATTENTION")
    # -1 is "unset": with detectron2's default of 100, a 100 set by the user could not be
    # recognised. Detectron2's own models take -1 as "no limit";
    # `sparsercnn.engine.setup.load_config` restores their 100.
    if cfg.TEST.DETECTIONS_PER_IMAGE == get_cfg().TEST.DETECTIONS_PER_IMAGE:
        cfg.TEST.DETECTIONS_PER_IMAGE = -1


def detections_per_image(cfg):
    """Number of detections that Sparse R-CNN keeps per image, with or without TEST.AUG.

    Args:
        cfg (CfgNode): the whole config.

    Returns:
        int: TEST.DETECTIONS_PER_IMAGE, or the number of proposals N if it is negative; at most N.
    """
    num_proposals = cfg.MODEL.SparseRCNN.NUM_PROPOSALS
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    return num_proposals if limit < 0 else min(limit, num_proposals)

"""The configuration keys that this project adds to detectron2's."""

import copy
import logging

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from .config_schema import rows

__all__ = ["add_sparsercnn_config", "detections_per_image", "read_renamed_keys"]


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
    # -1 is "unset": with detectron2's default of 100, a 100 set by the user could not be
    # recognised. Detectron2's own models take -1 as "no limit";
    # `sparsercnn.engine.setup.load_config` restores their 100.
    if cfg.TEST.DETECTIONS_PER_IMAGE == get_cfg().TEST.DETECTIONS_PER_IMAGE:
        cfg.TEST.DETECTIONS_PER_IMAGE = -1


def read_renamed_keys(cfg):
    """Move values set under the old name of a key to its new name, in place.

    Args:
        cfg (CfgNode): the whole config, not frozen.
    """
    model = cfg.MODEL
    if model.FPN.DUAL_ATTENTION:
        model.FPN.DUAL_ATTENTION = False
        model.RESNETS.RES5_ATTENTION = model.DANET.ATTENTION
        if model.BACKBONE.NAME == "build_resnet_fpn_backbone":
            model.BACKBONE.NAME = "build_resnet_attention_fpn_backbone"
        logging.getLogger(__name__).warning(
            "MODEL.FPN.DUAL_ATTENTION is deprecated but still accepted. Set "
            f"MODEL.RESNETS.RES5_ATTENTION '{model.RESNETS.RES5_ATTENTION}' and "
            "MODEL.BACKBONE.NAME build_resnet_attention_fpn_backbone instead."
        )


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

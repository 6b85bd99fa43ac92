"""A model of which each process trains a copy."""

import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm

from ..modeling.backbones.layers import bottom_up_of

__all__ = ["distribute"]


def distribute(cfg, model):
    """Wrap a model so that the processes of a run exchange its gradients.

    Args:
        cfg (CfgNode): the whole config.
        model (nn.Module): on the device of this process.

    Returns:
        nn.Module: in DistributedDataParallel; in a single process the model itself.
    """
    if comm.get_world_size() == 1:
        return model
    on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    return create_ddp_model(
        model,
        broadcast_buffers=False,
        # Not the local rank: a launcher may show each process its own GPU alone.
        device_ids=[torch.cuda.current_device()] if on_gpu else None,
        # Without the search, which takes time, the exchange would wait for their gradients.
        find_unused_parameters=leaves_maps_unread(cfg.MODEL, getattr(model, "backbone", None)),
    )


def leaves_maps_unread(model, backbone):
    """Whether weights of a backbone have no gradient, since the heads do not read their maps.

    Args:
        model (CfgNode): MODEL.
        backbone (Backbone): with or without a neck; None: the model has no such part.
    """
    rois = model.ROI_HEADS.IN_FEATURES
    read = {
        "SparseRCNN": rois,
        "GeneralizedRCNN": [*model.RPN.IN_FEATURES, *rois],
        "SemanticSegmentor": model.SEM_SEG_HEAD.IN_FEATURES,
    }.get(model.META_ARCHITECTURE)
    if backbone is None or read is None:
        return False
    made = [name for name in backbone.output_shape() if name != "p6"]  # p6 has no weights
    if bottom_up_of(backbone) is backbone:  # without a neck, each is made from the one before
        made = made[-1:]
    return not set(made) <= set(read)

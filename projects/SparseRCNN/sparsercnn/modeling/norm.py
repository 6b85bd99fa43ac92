"""Which batch norm fits the run."""

import logging

import torch
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

__all__ = ["choose_norm"]

_SYNCHRONISED = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")


def choose_norm(norm, device):
    """The kind of norm to build, where the config leaves it open or asks for what cannot run.

    Args:
        norm (str): "auto": batch norm over the images of all GPUs, which on one GPU or the CPU is
            plain batch norm. A synchronised one by name is kept where there are several GPUs, and
            else plain too, since PyTorch's refuses to train on the CPU. Others are kept.
        device (str): MODEL.DEVICE.

    Returns:
        str: a norm as :func:`detectron2.layers.get_norm` takes it.
    """
    if norm != "auto" and norm not in _SYNCHRONISED:
        return norm
    if torch.device(device).type == "cuda" and comm.get_world_size() > 1:
        return "SyncBN" if norm == "auto" else norm
    if norm != "auto":
        log_first_n(
            logging.INFO,
            f"{norm} is plain batch norm here: there is one process, or no GPU.",
            key="message",
        )
    return "BN"

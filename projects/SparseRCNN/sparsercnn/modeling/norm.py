"""Choice of the batch norm for the devices of a run."""

import logging

import torch
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

__all__ = ["choose_norm"]

_SYNCHRONISED = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")


def choose_norm(norm, device):
    """Resolve "auto", and replace synchronised batch norms where they cannot run.

    Args:
        norm (str): "auto": SyncBN with several GPUs, otherwise BN. A synchronised batch norm by
            name: kept with several GPUs, otherwise BN, since PyTorch's SyncBatchNorm does not
            train on the CPU. Any other name is kept.
        device (str): MODEL.DEVICE.

    Returns:
        str: a name for :func:`detectron2.layers.get_norm`.
    """
    if norm != "auto" and norm not in _SYNCHRONISED:
        return norm
    if torch.device(device).type == "cuda" and comm.get_world_size() > 1:
        return "SyncBN" if norm == "auto" else norm
    if norm != "auto":
        log_first_n(
            logging.INFO,
            f"{norm} is replaced by BN: there is only one process, or no GPU.",
            key="message",
        )
    return "BN"

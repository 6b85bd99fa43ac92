"""Figures about a training run that are not losses, for the log and TensorBoard."""

import logging

from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

__all__ = ["put_statistics", "statistics_due"]

# Iterations between two entries, as of detectron2's writers: each entry waits for the device.
_PERIOD = 20


def statistics_due(name):
    """Whether a statistic is to be recorded now: it is asked before it is computed.

    Args:
        name (str): under which :func:`put_statistics` will put it.

    Returns:
        bool: True in the main process of a training run, in the iterations in which detectron2's
        writers write, and once in each of them, however many forward passes it has.
    """
    if not comm.is_main_process():
        return False
    storage = _active_storage()
    if storage is None or (storage.iter + 1) % _PERIOD:
        return False
    return name not in storage.latest() or storage.latest()[name][1] < storage.iter


def put_statistics(statistics):
    """Record values in the event storage, which metrics.json and TensorBoard are written from, and
    in the log. It waits for the device.

    Args:
        statistics (dict[str, float | Tensor]): scalars by name.
    """
    statistics = {name: float(value) for name, value in statistics.items()}
    get_event_storage().put_scalars(**statistics, smoothing_hint=False)
    text = "  ".join(f"{name}: {value:.4g}" for name, value in statistics.items())
    logging.getLogger(__name__).info(text)


def _active_storage():
    # Detectron2 0.6 has no way to ask; it asserts.
    try:
        return get_event_storage()
    except AssertionError:
        return None

"""Statistics of a training run other than losses, for the log and TensorBoard."""

import logging

from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

__all__ = ["put_statistics", "statistics_due"]

# Iterations between entries, as for detectron2's writers; each entry waits for the device.
_PERIOD = 20


def statistics_due(name):
    """bool: whether to compute the statistic of this name for :func:`put_statistics` now.

    True in the main process of a training run, in iterations in which detectron2's writers write,
    until the statistic has been recorded in that iteration.
    """
    if not comm.is_main_process():
        return False
    storage = _active_storage()
    if storage is None or (storage.iter + 1) % _PERIOD:
        return False
    return name not in storage.latest() or storage.latest()[name][1] < storage.iter


def put_statistics(statistics):
    """Record values in the log and in the event storage (metrics.json, TensorBoard). Waits for the
    device.

    Args:
        statistics (dict[str, float | Tensor]): scalars by name.
    """
    statistics = {name: float(value) for name, value in statistics.items()}
    get_event_storage().put_scalars(**statistics, smoothing_hint=False)
    text = "  ".join(f"{name}: {value:.4g}" for name, value in statistics.items())
    logging.getLogger(__name__).info(text)


def _active_storage():
    # Detectron2 0.6 cannot be asked whether a storage is active; it raises an AssertionError.
    try:
        return get_event_storage()
    except AssertionError:
        return None

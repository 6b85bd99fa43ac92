"""SIGTERM and SIGUSR1: a training ends after its iteration, with a checkpoint.

Clusters send one of them some time before they end a job. What this adds to a training without a
signal is one number in an exchange between processes that takes place anyway.
"""

import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import threading

__all__ = ["EXIT_STATUS", "Stopped", "at_once", "deferred", "requested", "take_signals"]

EXIT_STATUS = 75  # "temporary failure, try again" in sysexits.h
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(SystemExit):
    """A signal has ended a training, which ``--resume`` continues. The exit status is 75."""

    def __init__(self):
        super().__init__(EXIT_STATUS)


class _Request:
    """What this process knows: the signal that has come, and whether it must wait."""

    def __init__(self):
        self.signal = None
        self.is_deferred = False
        self.is_awaited = False  # by this process, or, in one that it has forked, by that one


_request = _Request()


def requested():
    """Whether this process has been asked to stop."""
    return _request.signal is not None


@contextlib.contextmanager
def take_signals():
    """In the block, SIGTERM and SIGUSR1 raise :class:`Stopped`, at once or, see :func:`deferred`,
    when the training allows it. For the main thread of a process that trains."""

    def note(number, _):
        _request.signal = signal.Signals(number)
        if not _request.is_deferred:
            raise Stopped

    with _handlers(note):
        _request.is_awaited = True
        try:
            yield
        finally:
            _request.is_awaited, _request.signal = False, None


@contextlib.contextmanager
def deferred():
    """In the block, a signal is only noted: see :func:`requested`."""
    with _deferring(True):
        yield


@contextlib.contextmanager
def at_once():
    """In the block, inside one of :func:`deferred`, a signal need not wait: what was done before
    is in a checkpoint, and what is being done is done again."""
    with _deferring(False):
        if requested():
            raise Stopped
        yield


@contextlib.contextmanager
def _deferring(is_deferred):
    before, _request.is_deferred = _request.is_deferred, is_deferred
    try:
        yield
    finally:
        _request.is_deferred = before


@contextlib.contextmanager
def _handlers(handler):
    if threading.current_thread() is not threading.main_thread():  # of a program of its own
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _shield(request):
    """Let a loading process outlive a signal that goes to all processes of a job: the training
    needs its samples to end the iteration. What its parent sends ends it."""
    if not request.is_awaited:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()


def _obey_parent(parent):
    while True:
        info = signal.sigwaitinfo(_SIGNALS)
        if info.si_signo == signal.SIGTERM and info.si_pid == parent:
            os._exit(0)


multiprocessing.util.register_after_fork(_request, _shield)

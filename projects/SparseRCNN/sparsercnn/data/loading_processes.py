"""Which images the loading processes of a loader are at, for the message when one is killed."""

import contextlib
import os
import re
import signal
import threading

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..errors import DataError, ProcessError, abbreviate

__all__ = ["MappedSamples", "NotedSamples", "WatchedLoader", "name_of", "watch"]

_TIMED_OUT = "DataLoader timed out after"
_DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")


def name_of(record):
    """The name of a record's image (str), for messages."""
    return str(record.get("file_name", record.get("image_id", "an image without name")))


class NotedSamples:
    """Records, and notes in memory shared by all processes of which record each is at."""

    def __init__(self, dataset, num_workers):
        """
        Args:
            dataset (Dataset): records, with "file_name" or "image_id".
            num_workers (int): loading processes.
        """
        self.dataset = dataset
        # Of each process: its number in the system; the record it is at, -1 if at none.
        self.notes = torch.full((max(num_workers, 1), 2), -1, dtype=torch.int64).share_memory_()

    def __len__(self):
        return len(self.dataset)

    @contextlib.contextmanager
    def noted(self, index):
        """Note that this process is at the record `index` until the block ends."""
        worker = get_worker_info()
        note = self.notes[worker.id if worker else 0]
        note[0], note[1] = os.getpid(), int(index)
        try:
            yield
        finally:
            note[1] = -1

    def images_of(self, processes=None):
        """Names of the images (list[str]) that processes, by their numbers in the system, are at;
        None: all processes."""
        indices = [
            index
            for process, index in self.notes.tolist()
            if index >= 0 and (processes is None or process in processes)
        ]
        return [name_of(self.dataset[index]) for index in indices]


class MappedSamples(Dataset):
    """Samples that a mapper makes from noted records, each in its turn."""

    def __init__(self, noted, mapper):
        """
        Args:
            noted (NotedSamples): the records.
            mapper (callable): takes a record and returns a sample, or None if it cannot.
        """
        self.noted = noted
        self.mapper = mapper

    def __len__(self):
        return len(self.noted)

    def __getitem__(self, index):
        with self.noted.noted(index):
            record = self.noted.dataset[index]
            sample = self.mapper(record)
        if sample is None:
            raise DataError(f"{name_of(record)} can no longer be read; see the log.")
        return sample


class WatchedLoader:
    """A loader of detectron2's whose killed process is an error that names the image."""

    def __init__(self, loader, samples, timeout):
        """
        Args:
            loader (DataLoader): reads `samples`.
            samples (NotedSamples): what its processes read.
            timeout (float): see :func:`watch`.
        """
        self.loader = loader
        self.samples = samples
        self.timeout = timeout
        self.dataset = loader.dataset
        self.batch_sampler = loader.batch_sampler

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return watch(self.loader, self.samples, self.timeout)


def watch(loader, samples, timeout):
    """Iterate over a loader.

    Args:
        loader (iterable): a DataLoader, or detectron2's wrappers of one.
        samples (NotedSamples): what its processes read.
        timeout (float): seconds to wait for a batch; 0: without limit.

    Yields:
        the loader's batches.

    Raises:
        ProcessError: a loading process was killed, or stands still for longer than `timeout`; the
            message names the image that it was at.
    """
    inner = _data_loader(loader)
    if inner.num_workers > 0:
        inner.timeout = timeout
    iterator = iter(loader)
    while (batch := _next(iterator, samples, timeout)) is not None:
        yield batch


def _next(iterator, samples, timeout):
    try:
        with _deaths.noticed():
            return next(iterator, None)
    except RuntimeError as error:
        message = str(error)
        died = _DIED.search(message)
        if died:
            processes = {int(number) for number in died[1].split(",")}
            images = samples.images_of(processes)
            where = f"while it read {abbreviate(images)}" if images else "between two images"
            raise ProcessError(
                f"A loading process ({died[1]}) was killed or crashed {where}. If the system is "
                "short of memory, lower DATALOADER.NUM_WORKERS; DATALOADER.RESTARTS 1 or more "
                "starts the processes anew."
            ) from error
        if message.startswith(_TIMED_OUT):
            raise ProcessError(
                f"No batch came within DATALOADER.TIMEOUT, {timeout:g} seconds. The loading "
                f"processes are at {abbreviate(samples.images_of()) or 'no image'}. If the disk is "
                "only slow, raise it (0: no limit); DATALOADER.RESTARTS 1 or more starts the "
                "processes anew."
            ) from error
        raise


class _Deaths:
    """PyTorch's check for killed processes, made only while a batch is waited for.

    PyTorch makes it in a signal handler, and so raises at whatever the main thread is doing, such
    as a step of the optimizer.
    """

    def __init__(self):
        self.check = None  # PyTorch's handler, once it has one
        self.waiting = False

    @contextlib.contextmanager
    def noticed(self):
        self.waiting = True
        try:
            if self.check is not None:
                self.check(signal.SIGCHLD, None)
            yield
        finally:
            self.waiting = False
            self._take_over()

    def _take_over(self):
        handler = signal.getsignal(signal.SIGCHLD)
        of_torch = getattr(handler, "__module__", "").startswith("torch.utils.data")
        if of_torch and threading.current_thread() is threading.main_thread():
            self.check = handler
            signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, number, frame):
        if self.waiting:
            self.check(number, frame)


_deaths = _Deaths()  # signal handlers are of the process


def _data_loader(loader):
    """The DataLoader within detectron2's wrappers, whose names differ among versions."""
    while not isinstance(loader, DataLoader):
        loader = loader.dataset if hasattr(loader, "dataset") else loader._dataset
    return loader

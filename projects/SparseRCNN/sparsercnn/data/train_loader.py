"""An endless training loader with batches determined by a seed, which can start at any batch."""

import itertools
import logging
import random

import numpy as np
import torch
from detectron2.data import build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from ..errors import ProcessError
from .loading_processes import NotedSamples, watch
from .slivers import record_lost

__all__ = ["TrainLoader"]


class TrainLoader:
    """Detectron2's training loader, with a random state for each sample.

    The augmentation of a sample depends only on the loader's seed and the position of the sample in
    the random order, not on what its process drew before. An interrupted run therefore continues
    with the batches that it would have had without the interruption.

    Detectron2 decides which samples form a batch: that depends on the order of the sampler, the
    number of loading processes, and how the installed version distributes samples among them.
    """

    def __init__(
        self,
        dataset,
        mapper,
        sampler,
        *,
        seed,
        total_batch_size,
        aspect_ratio_grouping,
        num_workers,
        is_wide=None,
        images_per_epoch=None,
        timeout=0.0,
        num_restarts=0,
    ):
        """
        Args:
            dataset (torch.utils.data.Dataset): records in detectron2's format.
            mapper (callable): maps a record to a sample; must not return None.
            sampler (Sampler): endless indices of `dataset` for this worker, the same in each
                iteration over it.
            seed (int): seed of the augmentations.
            total_batch_size (int): images per batch of all workers together.
            aspect_ratio_grouping (bool): group wide images, and other images, into separate
                batches; records need "width" and "height".
            num_workers (int): loading processes; 0: load in this process.
            is_wide (sequence[bool]): for each record, whether it is wider than high; None: read
                from the records when it is needed.
            images_per_epoch (int): of all workers together, for schedules in epochs; None: all
                records.
            timeout (float): seconds to wait for a batch of the loading processes; 0: no limit.
            num_restarts (int): how often, in all, the loading processes are started anew after one
                was killed or stood still. The batches are the same.
        """
        self.dataset = dataset
        self.mapper = mapper
        self.sampler = sampler
        self.seed = seed
        self.total_batch_size = total_batch_size
        self.aspect_ratio_grouping = aspect_ratio_grouping
        self.num_workers = num_workers
        self.is_wide = is_wide
        self.images_per_epoch = len(dataset) if images_per_epoch is None else images_per_epoch
        self.timeout = timeout
        self.num_restarts = num_restarts
        self._num_skipped = 0

    def start_at(self, num_batches):
        """Skip batches in the next iteration over the loader, without loading them.

        Args:
            num_batches (int): number of batches of this worker to skip.
        """
        self._num_skipped = num_batches

    def __iter__(self):
        """
        Raises:
            RuntimeError: batches are to be skipped, but this detectron2 distributes samples among
                loading processes in a way that does not repeat.
            ProcessError: a loading process was killed or stands still, and `num_restarts` are done;
                see :func:`~sparsercnn.data.loading_processes.watch`.
        """
        return self._restarting(self._start(self._num_skipped), self._num_skipped)

    def _restarting(self, batches, num_done):
        while True:
            try:
                for batch in batches:
                    num_done += 1
                    record_lost(batch)
                    yield batch
                return
            except ProcessError as error:
                if self.num_restarts < 1:
                    raise
                self.num_restarts -= 1
                logging.getLogger(__name__).warning(
                    f"{error} They are started anew, {self.num_restarts} times are left."
                )
            batches = self._start(num_done)

    def _start(self, num_skipped):
        """An iterator over the batches after the first `num_skipped`."""
        places = _Places(self.sampler)
        if num_skipped > 0:
            order = self._order_in_a_round()
            num_back, begun = num_skipped * self._batch_size, []
            if self.aspect_ratio_grouping:
                num_back, begun = self._skip_grouped(order, num_skipped)
            places = _Places(self.sampler, order, num_back, begun)
        noted = NotedSamples(self.dataset, self.num_workers)
        samples = _SeededSamples(noted, self.mapper, self.seed)
        return watch(self._build(samples, places), noted, self.timeout)

    def _build(self, dataset, places):
        return build_detection_train_loader(
            dataset=dataset,
            mapper=None,
            sampler=places,
            total_batch_size=self.total_batch_size,
            aspect_ratio_grouping=self.aspect_ratio_grouping,
            num_workers=self.num_workers,
        )

    @property
    def _batch_size(self):
        return self.total_batch_size // comm.get_world_size()

    def _order_in_a_round(self):
        """The order in which samples come back from the processes, the same in each round.

        A round is one batch per process. Detectron2 0.6 distributes samples one by one, newer
        versions batch by batch. With aspect ratio grouping they are collected one by one, otherwise
        batch by batch. With two processes and batches of two::

            detectron2    first has    second has    come back for groups    otherwise
            0.6           0 2          1 3           0 1 2 3                 0 2 1 3
            newer         0 1          2 3           0 2 1 3                 0 1 2 3

        The order is measured on two rounds of empty samples, not derived from the version.

        Returns:
            list[int]: for each sample that comes back, its index in the round.
        """
        in_a_round = max(self.num_workers, 1) * self._batch_size
        if self.num_workers < 2:
            return list(range(in_a_round))
        loader = self._build(_NumberedSamples(), _Places(range(2 * in_a_round)))
        numbers = [sample["number"] for batch in loader for sample in batch]
        order = numbers[:in_a_round]
        again = [in_a_round + number for number in order]
        if sorted(order) != list(range(in_a_round)) or numbers[in_a_round:] != again:
            raise RuntimeError(
                "The data cannot continue where the run was interrupted: with "
                f"{self.num_workers} loading processes, this detectron2 returns the first samples "
                f"in the order {numbers}, which does not repeat after {in_a_round}. Set "
                "DATALOADER.NUM_WORKERS 1 to continue, with other batches than without "
                "interruption."
            )
        return order

    def _skip_grouped(self, order, num_skipped):
        """The state of the groups when the last skipped batch is complete.

        Each sample joins the group of its kind, and a full group is a batch. Samples that have come
        back but are in an incomplete group come first in the remaining order. Example with batches
        of two from samples that are wide (w) or not (t), of which the first two are skipped::

            comes back as number    0  1  2  3  4  5  6  7
            kind                    w  t  w  w  t  w  t  t
            in batch                0  1  0  2  1  2  3  3
                                             |  ^ batch 1 is full: five samples have come back,
                                             |    and numbers 5, 6, 7, ... remain
                                             begun: it is in batch 2, and comes before number 5

        Returns:
            tuple[int, list]: the number of samples that have come back, and (position, index) of
            those in incomplete groups, in the order in which they came back.
        """
        groups = {True: [], False: []}
        is_wide = self.is_wide
        if is_wide is None:
            records = (self.dataset[i] for i in range(len(self.dataset)))
            is_wide = [record["width"] > record["height"] for record in records]
        num_left = num_skipped
        places = _reordered(enumerate(self.sampler), order)
        for num_back, (position, index) in enumerate(places, start=1):
            group = groups[is_wide[index]]
            group.append((position, index))
            if len(group) == self._batch_size:
                group.clear()
                num_left -= 1
                if num_left == 0:
                    return num_back, groups[True] + groups[False]
        raise ValueError("The sampler of a training loader must be endless.")


class _Places(Sampler):
    """(position, index) of samples, ordered so that the loading processes first return `begun`,
    then the samples of `sampler` that come back after the first `num_back`.
    """

    def __init__(self, sampler, order=(0,), num_back=0, begun=()):
        self.sampler = sampler
        self.order = order
        self.num_back = num_back
        self.begun = begun

    def __iter__(self):
        rounds, num_back = divmod(self.num_back, len(self.order))
        places = itertools.islice(enumerate(self.sampler), rounds * len(self.order), None)
        remaining = itertools.islice(_reordered(places, self.order), num_back, None)
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return _reordered(itertools.chain(self.begun, remaining), inverse)


def _reordered(items, order):
    """Reorder each block of len(order) items: item order[0] first, then order[1], and so on."""
    while len(block := list(itertools.islice(items, len(order)))) == len(order):
        yield from (block[i] for i in order)


class _NumberedSamples(Dataset):
    """Empty samples that hold only their position."""

    def __getitem__(self, place):
        return {"number": place[0], "width": 1, "height": 1}


class _SeededSamples(Dataset):
    """Samples with augmentations seeded by their position in the random order."""

    def __init__(self, noted, mapper, seed):
        self.noted = noted
        self.mapper = mapper
        self.seed = seed
        self.rank = comm.get_rank()  # unknown in the loading processes

    def __len__(self):
        return len(self.noted)

    def __getitem__(self, place):
        position, index = place
        _seed_generators(self.seed, self.rank, position)
        with self.noted.noted(index):
            return self.mapper(self.noted.dataset[index])


def _seed_generators(*numbers):
    """Seed the generators that augmentations use, from any non-negative integers."""
    for_python, for_numpy, for_torch = np.random.SeedSequence(numbers).generate_state(3).tolist()
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.manual_seed(for_torch)

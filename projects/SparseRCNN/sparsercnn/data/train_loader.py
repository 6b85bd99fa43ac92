"""An endless training loader whose batches follow from a seed, from the first on or a later one."""

import itertools
import random

import numpy as np
import torch
from detectron2.data import build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

__all__ = ["TrainLoader"]


class TrainLoader:
    """Detectron2's training loader, with random numbers that belong to the sample.

    A sample's augmentation is drawn from the loader's seed and the sample's place in the random
    order, not from whatever its process drew before. So the batches of a run that was interrupted
    are those that it would have had.

    Which samples are in a batch is detectron2's decision: it follows from the order of the sampler,
    the number of processes that load, and how the installed version shares samples out among them.
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
    ):
        """
        Args:
            dataset (torch.utils.data.Dataset): records in detectron2's format.
            mapper (callable): of a record; it must not give None.
            sampler (Sampler): endless, this worker's part of the indices of `dataset`, and the
                same each time that it is iterated.
            seed (int): of the augmentations.
            total_batch_size (int): images of all workers together.
            aspect_ratio_grouping (bool): batches of images that are all wide, or all not; records
                have "width" and "height".
            num_workers (int): processes that load; 0: this one.
        """
        self.dataset = dataset
        self.mapper = mapper
        self.sampler = sampler
        self.seed = seed
        self.total_batch_size = total_batch_size
        self.aspect_ratio_grouping = aspect_ratio_grouping
        self.num_workers = num_workers
        self._num_skipped = 0

    def start_at(self, num_batches):
        """Let the next iteration over the loader leave out its first batches, without loading them.

        Args:
            num_batches (int): of this worker.
        """
        self._num_skipped = num_batches

    def __iter__(self):
        """
        Raises:
            RuntimeError: it does not start with the first batch, and this detectron2 shares samples
                out in a way for which the place to go on cannot be told.
        """
        places = _Places(self.sampler)
        if self._num_skipped > 0:
            order = self._order_in_a_round()
            num_back, begun = self._num_skipped * self._batch_size, []
            if self.aspect_ratio_grouping:
                num_back, begun = self._skip_grouped(order)
            places = _Places(self.sampler, order, num_back, begun)
        return iter(self._build(_SeededSamples(self.dataset, self.mapper, self.seed), places))

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
        """In which order samples come back from the processes: the same in each round.

        A round is a batch for each process. Detectron2 0.6 shares samples out one by one, newer
        ones a batch at a time, and they are collected one by one for groups, batch by batch
        otherwise. With two processes and batches of two::

            detectron2    first has    second has    come back for groups    otherwise
            0.6           0 2          1 3           0 1 2 3                 0 2 1 3
            newer         0 1          2 3           0 2 1 3                 0 1 2 3

        Rather than knowing versions, this looks at two rounds of samples that hold nothing.

        Returns:
            list[int]: per sample that comes back, which one of the round it is.
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
                "Cannot go on with the data where the run was interrupted: with "
                f"{self.num_workers} loading processes, this detectron2 gives the first samples in "
                f"the order {numbers}, which does not repeat after {in_a_round}. With "
                "DATALOADER.NUM_WORKERS 1 it goes on, on other batches than without interruption."
            )
        return order

    def _skip_grouped(self, order):
        """What has come back when the last batch that is left out is full.

        Each sample goes to the group of its kind, and a group that is full is a batch. So samples
        may have come back that are in no batch yet, and they begin those that remain. Batches of
        two from samples that are wide (w) or not (t), of which the first two batches are left out::

            comes back as number    0  1  2  3  4  5  6  7
            kind                    w  t  w  w  t  w  t  t
            in batch                0  1  0  2  1  2  3  3
                                             |  ^ batch 1 is full: five samples have come back,
                                             |    and numbers 5, 6, 7, ... remain
                                             begun: it is in batch 2, and comes before number 5

        Returns:
            tuple[int, list]: the number of samples that have come back; (position, index) of those
            that are begun, in the order in which they came.
        """
        groups = {True: [], False: []}
        is_wide = [self._is_wide(i) for i in range(len(self.dataset))]
        num_left = self._num_skipped
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

    def _is_wide(self, index):
        record = self.dataset[index]
        return record["width"] > record["height"]


class _Places(Sampler):
    """(position, index) of the samples, shared out so that these come back, in this order:
    those that are `begun`, then all but the first `num_back` that would otherwise come back.
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
    """Item order[0] of the first len(order), then order[1] and so on; then the next len(order)."""
    while len(block := list(itertools.islice(items, len(order)))) == len(order):
        yield from (block[i] for i in order)


class _NumberedSamples(Dataset):
    """Samples of one kind that are loaded in no time."""

    def __getitem__(self, place):
        return {"number": place[0], "width": 1, "height": 1}


class _SeededSamples(Dataset):
    """Samples by their place in the random order."""

    def __init__(self, dataset, mapper, seed):
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed
        self.rank = comm.get_rank()  # loading processes do not know it

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, place):
        position, index = place
        _seed_generators(self.seed, self.rank, position)
        return self.mapper(self.dataset[index])


def _seed_generators(*numbers):
    """Those that augmentations draw from, by any non-negative whole numbers."""
    for_python, for_numpy, for_torch = np.random.SeedSequence(numbers).generate_state(3).tolist()
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.manual_seed(for_torch)

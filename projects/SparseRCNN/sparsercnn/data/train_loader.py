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
    are those that it would have had, and do not depend on how many processes load them.
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
        skip = self._skip_grouped if self.aspect_ratio_grouping else self._skip_rounds
        places, num_left = skip(self._num_skipped)
        loader = build_detection_train_loader(
            dataset=_SeededSamples(self.dataset, self.mapper, self.seed),
            mapper=None,
            sampler=_Places(places),
            total_batch_size=self.total_batch_size,
            aspect_ratio_grouping=self.aspect_ratio_grouping,
            num_workers=self.num_workers,
        )
        return itertools.islice(loader, num_left, None)

    @property
    def _batch_size(self):
        return self.total_batch_size // comm.get_world_size()

    def _skip_rounds(self, num_batches):
        """Without groups, process i of n loads batches i, i + n, ..., each from samples that are n
        apart (or, in newer detectron2, side by side). Only whole rounds are the same samples
        either way; the batches that are left to skip have to be loaded.
        """
        in_a_round = max(self.num_workers, 1)
        rounds, num_left = divmod(num_batches, in_a_round)
        first = rounds * in_a_round * self._batch_size
        return _PlacesFrom(self.sampler, first), num_left

    def _skip_grouped(self, num_batches):
        """Groups are filled in the order of the samples. Those that are in a group which was not
        full yet when the last of the batches was come first, with their old places.
        """
        groups = {True: [], False: []}
        position = 0
        if num_batches > 0:
            is_wide = [self._is_wide(i) for i in range(len(self.dataset))]
            for position, index in enumerate(self.sampler, start=1):
                group = groups[is_wide[index]]
                group.append((position - 1, index))
                if len(group) == self._batch_size:
                    group.clear()
                    num_batches -= 1
                    if num_batches == 0:
                        break
        begun = sorted(groups[True] + groups[False])
        return _PlacesFrom(self.sampler, position, begun), 0

    def _is_wide(self, index):
        record = self.dataset[index]
        return record["width"] > record["height"]


class _PlacesFrom:
    """(position, index) of the samples: those that are `begun`, then all from a position on."""

    def __init__(self, sampler, position, begun=()):
        self.sampler = sampler
        self.position = position
        self.begun = begun

    def __iter__(self):
        yield from self.begun
        yield from itertools.islice(enumerate(self.sampler), self.position, None)


class _Places(Sampler):
    """What detectron2 takes for a sampler."""

    def __init__(self, places):
        self.places = places

    def __iter__(self):
        return iter(self.places)


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

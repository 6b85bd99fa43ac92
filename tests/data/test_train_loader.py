"""Batches follow from the seed, whether they are loaded from the first on or from another."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler

from sparsercnn.data.train_loader import TrainLoader

RECORDS = [{"index": i, "width": 10 + i % 3, "height": 11} for i in range(7)]


def draw(record):
    """A mapper whose "augmentation" draws from all generators."""
    return {**record, "drawn": (np.random.rand(), torch.rand(1).item())}


def make_loader(sampler=None, seed=3, **options):
    options = {"total_batch_size": 2, "aspect_ratio_grouping": True, "num_workers": 0, **options}
    sampler = sampler or TrainingSampler(len(RECORDS), seed=seed)
    return TrainLoader(DatasetFromList(RECORDS), draw, sampler, seed=seed, **options)


def take(loader, n):
    return [[(x["index"], x["drawn"]) for x in batch] for batch in itertools.islice(loader, n)]


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("num_skipped", [1, 4, 9])
def test_a_loader_that_starts_later_gives_what_the_whole_one_gives(
    grouping, num_workers, num_skipped
):
    options = {"aspect_ratio_grouping": grouping, "num_workers": num_workers}
    expected = take(make_loader(**options), num_skipped + 6)[num_skipped:]
    later = make_loader(**options)
    later.start_at(num_skipped)
    assert take(later, 6) == expected


def test_groups_keep_their_kind_after_a_late_start():
    loader = make_loader()
    loader.start_at(5)
    for batch in itertools.islice(loader, 8):
        assert len({x["width"] > x["height"] for x in batch}) == 1


def test_repeated_samples_are_drawn_anew():
    sampler = RepeatFactorTrainingSampler(torch.full((len(RECORDS),), 1.5), seed=0)
    samples = [x for batch in take(make_loader(sampler), 30) for x in batch]
    assert len({drawn for _, drawn in samples}) == len(samples)


def test_batches_do_not_depend_on_the_number_of_processes():
    assert take(make_loader(num_workers=0), 8) == take(make_loader(num_workers=2), 8)


def test_another_seed_gives_other_batches():
    assert take(make_loader(seed=3), 4) != take(make_loader(seed=4), 4)

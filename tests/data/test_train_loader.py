"""Batches follow from the seed, whether they are loaded from the first on or from another."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from torch.utils.data import IterableDataset, get_worker_info

from sparsercnn.data.train_loader import TrainLoader

RECORDS = [{"index": i, "width": 10 + i % 3, "height": 11} for i in range(7)]
BATCH_SIZE = 2


class SharedOut(IterableDataset):
    """Samples for which each loading process has every so many, and then leaves as many to each
    of the others: one in detectron2 0.6, a batch in newer versions.
    """

    def __init__(self, dataset, sampler, at_a_time):
        self.dataset = dataset
        self.sampler = sampler
        self.at_a_time = at_a_time

    def __iter__(self):
        worker = get_worker_info()
        for number, place in enumerate(self.sampler):
            if worker is None or number // self.at_a_time % worker.num_workers == worker.id:
                yield self.dataset[place]


def share_out(monkeypatch, at_a_time):
    """Let detectron2 share its samples out in this way."""
    monkeypatch.setattr(
        "detectron2.data.build.ToIterableDataset",
        lambda dataset, sampler, **_: SharedOut(dataset, sampler, at_a_time),
    )


@pytest.fixture(params=["installed", "0.6", "newer"])
def detectron2(request, monkeypatch):
    """The installed version's way to share samples out, and that of each version."""
    if request.param != "installed":
        share_out(monkeypatch, {"0.6": 1, "newer": BATCH_SIZE}[request.param])


def draw(record):
    """A mapper whose "augmentation" draws from all generators."""
    return {**record, "drawn": (np.random.rand(), torch.rand(1).item())}


def make_loader(sampler=None, seed=3, **options):
    options.setdefault("total_batch_size", BATCH_SIZE)
    options = {"aspect_ratio_grouping": True, "num_workers": 0, **options}
    sampler = sampler or TrainingSampler(len(RECORDS), seed=seed)
    return TrainLoader(DatasetFromList(RECORDS), draw, sampler, seed=seed, **options)


def take(loader, n):
    return [[(x["index"], x["drawn"]) for x in batch] for batch in itertools.islice(loader, n)]


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
@pytest.mark.parametrize("num_skipped", [1, 9])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_loader_that_starts_later_gives_what_the_whole_one_gives(
    detectron2, grouping, num_workers, num_skipped
):
    options = {"aspect_ratio_grouping": grouping, "num_workers": num_workers}
    expected = take(make_loader(**options), num_skipped + 6)[num_skipped:]
    later = make_loader(**options)
    later.start_at(num_skipped)
    assert take(later, 6) == expected


def test_versions_differ_in_what_is_in_a_group(monkeypatch):
    """Otherwise the test above would say nothing."""
    batches = []
    for at_a_time in (1, BATCH_SIZE):
        share_out(monkeypatch, at_a_time)
        batches.append(take(make_loader(num_workers=2), 6))
    assert batches[0] != batches[1]


@pytest.mark.parametrize("grouping", [True, False])
def test_an_order_that_does_not_repeat_is_refused(monkeypatch, grouping):
    share_out(monkeypatch, 3)  # while a round has four
    loader = make_loader(num_workers=2, aspect_ratio_grouping=grouping)
    loader.start_at(1)
    with pytest.raises(RuntimeError, match=r"NUM_WORKERS 1 to continue"):
        iter(loader)


def test_groups_keep_their_kind_after_a_late_start():
    loader = make_loader()
    loader.start_at(5)
    for batch in itertools.islice(loader, 8):
        assert len({x["width"] > x["height"] for x in batch}) == 1


def test_repeated_samples_are_drawn_anew():
    sampler = RepeatFactorTrainingSampler(torch.full((len(RECORDS),), 1.5), seed=0)
    samples = [x for batch in take(make_loader(sampler), 30) for x in batch]
    assert len({drawn for _, drawn in samples}) == len(samples)


def test_augmentations_do_not_depend_on_the_number_of_processes(detectron2):
    samples = []
    for num_workers in (0, 2):
        batches = take(make_loader(num_workers=num_workers, aspect_ratio_grouping=False), 8)
        samples.append(sorted(itertools.chain.from_iterable(batches)))  # in four whole rounds
    assert samples[0] == samples[1]


@pytest.mark.parametrize("grouping", [True, False])
def test_one_loading_process_gives_the_batches_of_none(detectron2, grouping):
    """As draw_batch says, which loads in its own process."""
    none, one = (make_loader(num_workers=n, aspect_ratio_grouping=grouping) for n in (0, 1))
    assert take(none, 8) == take(one, 8)


def test_another_seed_gives_other_batches():
    assert take(make_loader(seed=3), 4) != take(make_loader(seed=4), 4)

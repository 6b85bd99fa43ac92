"""Loading processes that are killed or stand still: what is told, and what a restart gives."""

import itertools
import os
import signal
import time

import pytest
from detectron2.data import DatasetFromList
from detectron2.data.samplers import TrainingSampler

from sparsercnn.data import build_test_loader, register_datasets
from sparsercnn.data.train_loader import TrainLoader
from sparsercnn.errors import ProcessError

RECORDS = [{"file_name": f"{i}.jpg", "width": 10, "height": 11 - i % 2 * 2} for i in range(6)]


class Mapper:
    """Meets its end at one image: always, or as long as a file is there."""

    def __init__(self, name, end, while_exists=None):
        self.name = name
        self.end = end
        self.while_exists = while_exists

    def __call__(self, record):
        if record["file_name"].endswith(self.name):
            if self.while_exists is None:
                self.end()
            elif self.while_exists.exists():
                self.while_exists.unlink()
                self.end()
        return record


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def stands_still():
    time.sleep(600)


def make_loader(mapper, **options):
    options = {"num_workers": 2, "aspect_ratio_grouping": True, **options}
    return TrainLoader(
        DatasetFromList(RECORDS),
        mapper,
        TrainingSampler(len(RECORDS), seed=1),
        seed=1,
        total_batch_size=2,
        **options,
    )


def names(loader, number=12):
    return [[x["file_name"] for x in batch] for batch in itertools.islice(loader, number)]


@pytest.mark.parametrize("grouping", [True, False])
def test_a_killed_process_is_an_error_that_names_the_image(grouping):
    loader = make_loader(Mapper("3.jpg", killed), aspect_ratio_grouping=grouping)
    with pytest.raises(ProcessError, match=r"killed or crashed while it read 3\.jpg.*RESTARTS"):
        names(loader)


def test_a_process_that_stands_still_is_an_error_that_names_the_image():
    loader = make_loader(Mapper("2.jpg", stands_still), timeout=1.0)
    with pytest.raises(ProcessError, match=r"DATALOADER\.TIMEOUT, 1 seconds.* are at 2\.jpg"):
        names(loader)


def test_restarted_processes_give_the_same_batches(tmp_path, caplog):
    expected = names(make_loader(Mapper("none", killed)))
    once = tmp_path / "once"
    once.touch()
    loader = make_loader(Mapper("4.jpg", killed, while_exists=once), num_restarts=2)
    assert names(loader) == expected
    assert not once.exists() and loader.num_restarts == 1
    assert "started anew, 1 times are left" in caplog.text


def test_restarts_have_an_end():
    loader = make_loader(Mapper("3.jpg", killed), num_restarts=1)
    with pytest.raises(ProcessError, match="3.jpg"):
        names(loader)
    assert loader.num_restarts == 0


def test_a_death_is_noticed_at_the_next_batch_and_not_before():
    """PyTorch would raise at any moment, such as in a step of the optimizer."""
    loader = make_loader(Mapper("3.jpg", killed), timeout=60)
    batches = iter(loader)
    next(batches)
    time.sleep(1.5)  # the processes load ahead; a raise would be here
    with pytest.raises(ProcessError, match="killed or crashed"):
        list(itertools.islice(batches, 12))


def test_an_evaluation_names_the_image_too(cfg, coco_content, write_coco, monkeypatch):
    entry = write_coco(coco_content)
    register_datasets([entry])
    cfg.DATASETS.TEST = (entry,)
    cfg.DATALOADER.NUM_WORKERS = 1
    monkeypatch.setattr(
        "sparsercnn.data.build._build_mapper", lambda cfg, is_train: Mapper("2.png", killed)
    )
    loader = build_test_loader(cfg, entry)
    assert len(loader) == 3
    with pytest.raises(ProcessError, match=r"while it read .*/2\.png"):
        list(loader)

import json
import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from sparsercnn.data import DataError, coco_cache, register_datasets
from sparsercnn.data.coco_cache import open_coco
from sparsercnn.data.coco_records import coco_records


@pytest.fixture(autouse=True)
def _every_file_is_kept(monkeypatch):
    monkeypatch.setattr(coco_cache, "_WORTH_KEEPING", 0)
    coco_cache._open.cache_clear()
    yield
    coco_cache._open.cache_clear()


@pytest.fixture
def start(monkeypatch):
    """As in a new process; gives the index, and whether the file was read."""

    def start(path):
        coco_cache._open.cache_clear()
        read = []
        with monkeypatch.context() as patch:
            scan = coco_cache._scan
            patch.setattr(coco_cache, "_scan", lambda path: read.append(path) or scan(path))
            index = open_coco(path)
        return index, bool(read)

    return start


@pytest.fixture
def path(write_coco, coco_content):
    return write_coco(coco_content)[len("coco:") :].partition("@")[0]


def _same(one, other):
    assert one.header == other.header
    for name in ("lines", "ends", "counts", "categories", "crowds", "kinds", "suspicious"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_a_later_start_maps_what_the_first_has_read(start, path, tmp_path):
    first, read = start(path)
    assert read
    second, read = start(path)
    assert not read
    assert isinstance(second.lines, np.memmap) and isinstance(first.lines, np.memmap)
    _same(first, second)
    names = sorted(os.listdir(tmp_path / "data_sets/.cache"))
    assert [Path(x).suffix for x in names] == [".jsonl", ".lock", ".npz"]
    lines = (tmp_path / "data_sets/.cache" / names[0]).read_text().splitlines()
    assert [json.loads(line)["image_id"] for line in lines] == [1, 2, 3]


def test_a_process_asks_only_once(path, monkeypatch):
    first = open_coco(path)
    monkeypatch.setattr(coco_cache, "_name", None)
    assert open_coco(path) is first


def test_the_content_counts_not_the_file(start, path, tmp_path):
    start(path)
    copied = tmp_path / "folder/set.json"
    copied.parent.mkdir()
    copied.write_bytes(Path(path).read_bytes())
    assert not start(str(copied))[1]
    text = Path(path).read_text()
    status = os.stat(path)
    Path(path).write_text(text.replace("[2, 1, 5, 4]", "[2, 1, 5, 3]"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same time
    index, read = start(path)
    assert read
    assert json.loads(index.lines[: index.ends[0]].tobytes())["annotations"][0]["bbox"][3] == 3


def test_another_version_reads_the_file_again(start, path, monkeypatch):
    start(path)
    monkeypatch.setattr(coco_cache, "_VERSION", coco_cache._VERSION + 1)
    assert start(path)[1]


@pytest.mark.parametrize("suffix", [".jsonl", ".npz"])
@pytest.mark.parametrize("length", [0, 0.5])
def test_a_torn_file_is_made_again(start, path, tmp_path, caplog, suffix, length):
    intact, _ = start(path)
    lines = np.array(intact.lines)
    (kept,) = (tmp_path / "data_sets/.cache").glob(f"*{suffix}")
    content = kept.read_bytes()
    # Another inode: `intact` has mapped the old one.
    kept.unlink()
    kept.write_bytes(content[: int(length * len(content))])
    with caplog.at_level(logging.WARNING):
        mended, read = start(path)
    assert read and "is damaged" in caplog.text
    assert np.array_equal(mended.lines, lines) and kept.read_bytes() == content
    assert not start(path)[1]


def test_an_image_whose_json_is_damaged_is_named(start, write_coco, coco_content, tmp_path):
    entry = write_coco(coco_content)
    # Annotations keep their line feeds: the second image is far below the second line.
    (tmp_path / "set.json").write_text(json.dumps(coco_content, indent=1))
    register_datasets([entry])
    (kept,) = (tmp_path / "data_sets/.cache").glob("*.jsonl")
    kept.write_bytes(kept.read_bytes().replace(b'"file_name": "2', b'"file_name": \x002'))
    start(entry[len("coco:") :].partition("@")[0])
    records = coco_records(entry)
    assert records[0]["image_id"] == 1
    with pytest.raises(DataError, match=r"\.jsonl, image 2 is damaged.*Delete the file"):
        records[1]


def test_what_is_kept_cannot_run_code(start, path, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    start(path)
    (kept,) = (tmp_path / "data_sets/.cache").glob("*.npz")
    with np.load(kept) as file:
        arrays = dict(file)
    np.savez(kept, **{**arrays, "counts": np.array([Evil()], object)})
    assert start(path)[1]
    assert not (tmp_path / "evil").exists()


def test_without_a_writable_folder_each_start_reads_the_file(start, path, tmp_path, caplog):
    (tmp_path / "data_sets").rmdir()
    (tmp_path / "user_cache").write_text("a file where a folder should be")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            index, read = start(path)
        assert read and len(index.ends) == 3
        (message,) = [x.getMessage() for x in caplog.records]
        assert "is read at every start" in message and "user_cache" in message


def test_a_full_disk_leaves_nothing_behind(start, path, tmp_path, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        index, _ = start(path)
    assert len(index.ends) == 3 and "No space left on device" in caplog.text
    left = os.listdir(tmp_path / "data_sets/.cache")
    assert [Path(x).suffix for x in left] == [".lock"]


def test_what_is_kept_in_a_folder_for_reading_is_used(start, path, monkeypatch):
    start(path)

    def refuse():
        raise OSError("nothing is writable")

    monkeypatch.setattr(coco_cache, "cache_folder", refuse)
    assert not start(path)[1]


def _start_in_another_process(path, at_once, reports):
    coco_cache._WORTH_KEEPING = 0
    scan, read = coco_cache._scan, []
    coco_cache._scan = lambda path: read.append(path) or scan(path)
    at_once.wait()
    index = open_coco(path)
    reports.put((len(read), index.lines.tobytes()))


def test_of_processes_that_start_at_once_one_reads(path):
    context = multiprocessing.get_context("fork")
    at_once, reports = context.Barrier(3), context.Queue()
    arguments = (path, at_once, reports)
    processes = [
        context.Process(target=_start_in_another_process, args=arguments) for _ in range(3)
    ]
    for process in processes:
        process.start()
    results = [reports.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(read for read, _ in results) == [0, 0, 1]
    assert len({lines for _, lines in results}) == 1


def test_records_are_those_of_the_catalog_from_the_cache_too(write_coco, coco_content, start):
    for annotation in coco_content["annotations"]:
        del annotation["area"]
    entry = write_coco(coco_content)
    register_datasets([entry])
    expected = DatasetCatalog.get(entry)
    assert list(coco_records(entry)) == expected
    assert not start(entry[len("coco:") :].partition("@")[0])[1]
    assert list(coco_records(entry)) == expected

import os
from pathlib import Path

import pytest

from sparsercnn.files import remove_leftovers, try_lock, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode,old,new", [("w", "alt", "größer"), ("wb", b"\0", b"\1\2")])
def test_the_file_changes_when_the_block_ends(tmp_path, mode, old, new):
    path = tmp_path / "a.json"
    path.write_bytes(old if mode == "wb" else old.encode())
    with write_atomically(str(path), mode) as file:
        file.write(new)
        file.flush()
        assert path.read_bytes() == (old if mode == "wb" else old.encode())
    assert path.read_bytes() == (new if mode == "wb" else new.encode("utf-8"))
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.json"

    def write_half():
        with write_atomically(str(path), "w") as file:
            file.write("half of")
            raise error

    with pytest.raises(error):
        write_half()
    assert names(tmp_path) == []
    path.write_text("old")
    with pytest.raises(error):
        write_half()
    assert names(tmp_path) == ["a.json"]
    assert path.read_text() == "old"


def test_a_failed_replacement_leaves_no_temporary(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError), write_atomically(str(tmp_path / "a"), "w") as file:
        file.write("new")
    assert names(tmp_path) == []


def test_writers_that_share_a_path_have_files_of_their_own(tmp_path):
    path = str(tmp_path / "a")
    with write_atomically(path, "w") as one:
        with write_atomically(path, "w") as other:
            assert one.name != other.name
            one.write("first")
            other.write("second")
        assert Path(path).read_text() == "second"
    assert Path(path).read_text() == "first"
    assert names(tmp_path) == ["a"]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    kept = ["a", "a.tmp", "mine.0123.tmp", f"{'0' * 32}.tmp"]
    for name in kept:
        (tmp_path / name).touch()

    writer = write_atomically(str(tmp_path / "a"), "w")
    writer.__enter__()  # and killed here
    assert len(names(tmp_path)) == len(kept) + 1
    remove_leftovers(str(tmp_path))
    assert names(tmp_path) == sorted(kept)


def test_a_missing_folder_is_an_error(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="nowhere"),
        write_atomically(str(tmp_path / "nowhere" / "a"), "w"),
    ):
        pass


def test_a_lock_is_for_one_process_or_for_all_that_look(tmp_path):
    path = tmp_path / "lock"
    with open(path, "w") as first, open(path) as second, open(path) as third:
        assert try_lock(second, shared=True) and try_lock(third, shared=True)
        assert not try_lock(first)
        second.close()
        third.close()
        assert try_lock(first)
        with open(path) as fourth:
            assert not try_lock(fourth, shared=True)
    with open(path) as fifth:
        assert try_lock(fifth)

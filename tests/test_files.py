import os
from pathlib import Path

import pytest

from sparsercnn.files import write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("mode,old,new", [("w", "alt", "größer"), ("wb", b"\0", b"\1\2")])
def test_the_file_changes_when_the_block_ends(tmp_path, shared, mode, old, new):
    path = tmp_path / "a.json"
    path.write_bytes(old if mode == "wb" else old.encode())
    with write_atomically(str(path), mode, shared) as file:
        file.write(new)
        file.flush()
        assert path.read_bytes() == (old if mode == "wb" else old.encode())
    assert path.read_bytes() == (new if mode == "wb" else new.encode("utf-8"))
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, shared, error):
    path = tmp_path / "a.json"

    def write_half():
        with write_atomically(str(path), "w", shared) as file:
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
    with write_atomically(path, "w", shared=True) as one:
        with write_atomically(path, "w", shared=True) as other:
            assert one.name != other.name
            one.write("first")
            other.write("second")
        assert Path(path).read_text() == "second"
    assert Path(path).read_text() == "first"
    assert names(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    (tmp_path / "a.tmp").write_text("half of a file, longer than the new one")
    with write_atomically(str(tmp_path / "a"), "w") as file:
        assert names(tmp_path) == ["a.tmp"]
        file.write("new")
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_a_missing_folder_is_an_error(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="nowhere"),
        write_atomically(str(tmp_path / "nowhere" / "a"), "w"),
    ):
        pass

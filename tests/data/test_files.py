import json
from pathlib import Path

import pytest

from sparsercnn.data.files import cache_json, files_below, write_json


def test_the_cache_lies_among_the_data_sets_or_else_with_the_user(tmp_path):
    first = cache_json("name", {"a": 1})
    assert Path(first).parent == tmp_path / "data_sets/.cache"
    assert cache_json("name", {"a": 1}) == first
    assert cache_json("name", {"a": 2}) != first
    assert json.loads(Path(first).read_text()) == {"a": 1}
    (tmp_path / "data_sets").rename(tmp_path / "elsewhere")
    assert Path(cache_json("name", {"a": 1})).parent == tmp_path / "user_cache/sparsercnn"


def test_without_a_place_to_write_the_error_says_what_to_set(tmp_path):
    (tmp_path / "data_sets").rmdir()
    (tmp_path / "user_cache").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=r"user_cache/sparsercnn\. Set DETECTRON2_DATASETS"):
        cache_json("name", {})


def test_what_json_cannot_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(str(path), [1])
    write_json(str(path), [2])
    with pytest.raises(TypeError):
        write_json(str(path), [object()])
    assert json.loads(path.read_text()) == [2]
    assert [x.name for x in tmp_path.glob("file*")] == ["file.json"]


@pytest.fixture
def tree(tmp_path):
    """A folder with files, and links to folders."""
    root, store = tmp_path / "root", tmp_path / "store"
    for path in ("b.txt", "c/d.txt", "c/._d.txt", "c/z/e.txt", "c.d/f.txt", ".hidden/g.txt"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    (store / "day").mkdir(parents=True)
    (store / "day/h.txt").touch()
    for link, place in {
        "a": store / "day",  # outside
        "c/again": root / "c.d",  # also reached at its own place, which is later in the order
        "c/z/loop": root,
        "x": root / ".hidden",
    }.items():
        (root / link).symlink_to(place)
    (root / "gone.txt").symlink_to(store / "gone.txt")
    return root


def test_linked_folders_are_entered_and_each_is_listed_once_at_its_own_place(tree):
    found = [x.relative_to(tree).as_posix() for x in files_below(tree)]
    # Those of a folder before its subfolders. A broken link to a file is for the reader to report.
    expected = ["b.txt", "gone.txt", "a/h.txt", "c/d.txt", "c/z/e.txt", "c.d/f.txt", "x/g.txt"]
    assert found == expected


def test_a_folder_can_be_left_out_of_a_list_of_files(tree):
    for name in ("a", "../store/day"):  # by a link to it, and by its place
        found = files_below(tree, tree / name)
        assert tree / "a/h.txt" not in found and tree / "c/d.txt" in found
    assert files_below(tree, tree) == files_below(tree)

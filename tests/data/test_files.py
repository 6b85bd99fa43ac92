import json
from pathlib import Path

import pytest

from sparsercnn.data.files import cache_json, write_json


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

"""What the page's events write and leave."""

import json
import os

import pytest

pytest.importorskip("gradio", reason="needs the extra 'web'")

from sparsercnn.errors import UserError
from sparsercnn.serve.page import _Handlers

CHOICE = (0.0, 1, None)  # lowest score, stage, classes


@pytest.fixture
def handlers(load, tmp_path):
    """Of both models; files are written into "drawn"."""
    (tmp_path / "drawn").mkdir()
    return _Handlers(load(), str(tmp_path / "drawn"))


def drawn(handlers):
    return os.listdir(handlers.folder)


@pytest.fixture
def video(clip):
    """As Gradio gives it."""
    return {"path": clip, "orig_name": "my.mp4"}


def test_a_video_that_is_complete_stays(handlers, video):
    *_, last = handlers.show_video(video, "two", *CHOICE)
    assert len(drawn(handlers)) == 1 and "5 frames" in last[0]
    names = [os.path.basename(x) for x in last[2:]]
    assert names == ["my.webm", "my-detections.json", "my-detections.csv"]
    assert all(os.path.getsize(x) for x in last[2:])


@pytest.mark.parametrize("frames", [1, 3])
def test_a_video_that_is_stopped_is_deleted(handlers, video, frames):
    states = handlers.show_video(video, "two", *CHOICE)
    for _ in range(frames):
        next(states)
    assert len(drawn(handlers)) == 1
    states.close()
    assert not drawn(handlers)


def test_a_video_that_fails_is_deleted(handlers, video, monkeypatch):
    find = handlers.models.find_in_frame
    frames = []

    def find_once(name, frame):
        if frames:
            raise error("no")
        frames.append(frame)
        return find(name, frame)

    monkeypatch.setattr(handlers.models, "find_in_frame", find_once)
    error = UserError
    *_, last = handlers.show_video(video, "two", *CHOICE)
    assert len(frames) == 1 and "alert" in last[0] and not drawn(handlers)
    frames.clear()
    error = RuntimeError
    with pytest.raises(RuntimeError):
        list(handlers.show_video(video, "two", *CHOICE))
    assert not drawn(handlers)


def test_pictures_of_the_first_model_are_deleted_if_the_second_fails(
    handlers, picture, monkeypatch
):
    image = {"path": str(picture), "orig_name": "a.png"}
    assert handlers.show(image, "two", "three", *CHOICE)[0] == ""
    assert len(drawn(handlers)) == 2
    find = handlers.models.find

    def find_two(name, upload):
        if name == "three":
            raise UserError("no")
        return find(name, upload)

    monkeypatch.setattr(handlers.models, "find", find_two)
    assert "alert" in handlers.show(image, "two", "three", *CHOICE)[0]
    assert len(drawn(handlers)) == 2  # those of before


@pytest.mark.parametrize("letter", ["a", "é", "画"])
def test_files_of_long_names_have_shorter_ones(handlers, picture, video, letter):
    long = letter * 300
    shown = handlers.show(
        {"path": str(picture), "orig_name": f"{long}.png"}, "two", "three", *CHOICE
    )
    assert shown[0] == ""
    *_, last = handlers.show_video({**video, "orig_name": f"{long}.mp4"}, "two", *CHOICE)
    paths = [*shown[5:8], *shown[12:15], *last[2:]]
    assert len(paths) == 9 and all(map(os.path.getsize, paths))
    stem = letter * (200 // len(letter.encode()))
    endings = [f"-detections.{x}" for x in ("png", "json", "csv")]
    names = {stem + x for x in (*endings, ".webm")}
    assert {os.path.basename(x) for x in paths} == names
    with open(shown[6], encoding="utf-8") as file:  # what is written keeps the name
        assert {x["file_name"] for x in json.load(file)} == {f"{long}.png"}

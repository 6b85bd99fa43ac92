"""Videos are drawn frame by frame, up to a limit, in a format that browsers play."""

import cv2
import pytest

pytest.importorskip("gradio", reason="needs the extra 'web'")

from sparsercnn.errors import MediaError
from sparsercnn.serve.video import draw_video
from sparsercnn.serve.view import Choice


@pytest.mark.parametrize("limit,frames,cut", [(3, 3, True), (5, 5, False), (9, 5, False)])
def test_frames_up_to_the_limit_are_drawn(load, clip, tmp_path, limit, frames, cut):
    models = load(video_frames=limit)
    choice = Choice(0, stage=1, classes=("mug", "spoon"))
    states = list(draw_video(models, "two", clip, "my.mp4", str(tmp_path), choice))
    assert [x.frames for x in states] == [*range(1, frames + 1), frames]
    last = states[-1]
    assert (last.total, last.cut) == (frames, cut)
    assert {x["image_id"] for x in last.entries} <= set(range(frames))
    assert {x["file_name"] for x in last.entries} == {"my.mp4"}
    assert {x["category_name"] for x in last.entries} <= {"mug", "spoon"}
    assert last.path == str(tmp_path / "my.webm")
    capture = cv2.VideoCapture(last.path)
    assert int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little") in (b"VP80", b"VP90")
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    sizes = []
    while (read := capture.read())[0]:
        sizes.append(read[1].shape)
    assert sizes == [(192, 256, 3)] * frames


def test_a_video_that_is_left_is_closed(load, clip, tmp_path):
    states = draw_video(load(), "two", clip, "my.mp4", str(tmp_path), Choice())
    path = next(states).path
    states.close()
    assert cv2.VideoCapture(path).read()[0]  # complete, as far as it is


def test_a_video_without_frames_is_named(load, tmp_path):
    path = tmp_path / "a.avi"
    path.write_bytes(b"RIFF\x00\x00\x00\x00AVI LIST")
    with pytest.raises(MediaError, match=r"my\.avi"):
        list(draw_video(load(), "two", str(path), "my.avi", str(tmp_path), Choice()))

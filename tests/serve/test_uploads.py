"""Only images and videos are opened, and none that is too large."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

pytest.importorskip("gradio", reason="needs the extra 'web'")

from sparsercnn.errors import ImageError, MediaError
from sparsercnn.serve import uploads
from sparsercnn.serve.limits import Limits
from sparsercnn.serve.uploads import Upload, open_video

LIMITS = Limits()


def encode(image, kind):
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_images_of_the_usual_formats_are_opened(kind):
    image = Image.new("RGB", (30, 20), (250, 10, 10))
    opened = Upload(encode(image, kind), "a").open(LIMITS)
    assert opened.size == (30, 20)
    assert np.abs(np.array(opened.convert("RGB"))[5, 5] - np.array([250, 10, 10])).max() < 10


@pytest.mark.parametrize("name", ["../../etc/a.png", "/etc/a.png", "..\\a.png", "C:\\x\\a.png"])
def test_folders_in_names_are_dropped(name):
    assert Upload(b"", name).name == "a.png"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        b"%PDF-1.4",
    ],
)
def test_what_is_no_image_is_named(content):
    with pytest.raises(ImageError, match=r"^x\.png is not an image that can be read\. Use one of"):
        Upload(content, "x.png").open(LIMITS)


@pytest.mark.parametrize("kind", ["GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_a_damaged_image_is_named(kind):
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)
    content = encode(Image.fromarray(noise), kind)
    with pytest.raises(ImageError, match=r"^x (is damaged|is not an image)"):
        Upload(content[: len(content) // 2], "x").open(LIMITS)


def test_too_many_pixels_are_refused_before_they_are_decoded(huge_png, monkeypatch):
    def load(*arguments):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ImageError, match=r"x has too many pixels: the limit is 16 megapixels"):
        Upload(huge_png, "x").open(LIMITS)
    large = encode(Image.new("1", (300, 200)), "PNG")
    with pytest.raises(ImageError, match="the limit is 0.05 megapixels.* It has 300 x 200"):
        Upload(large, "x").open(Limits(image_pixels=50_000))
    with pytest.raises(AssertionError, match="decoded"):
        Upload(large, "x").open(Limits(image_pixels=60_000))


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(bytes(1001))
    assert len(Upload.from_file(path, "a.png", Limits(image_bytes=1001)).content) == 1001
    with pytest.raises(ImageError, match="too large: the limit is 0.000954 MiB"):
        Upload.from_file(path, "a.png", Limits(image_bytes=1000))
    path.unlink()
    with pytest.raises(ImageError, match="deleted. Upload it again"):
        Upload.from_file(path, "a.png", LIMITS)


def write_video(path, size=(32, 24)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, size)
    writer.write(np.zeros((*size[::-1], 3), np.uint8))
    writer.release()
    return str(path)


def test_a_video_is_opened(tmp_path):
    capture = open_video(write_video(tmp_path / "a.mp4"), "a.mp4", LIMITS)
    assert capture.read()[1].shape == (24, 32, 3)
    capture.release()


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
        b"",
    ],
)
def test_lists_of_other_files_are_no_videos(content, tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    monkeypatch.setattr(uploads, "open_capture", lambda path: pytest.fail("opened"))
    with pytest.raises(MediaError, match="clip.mp4 is not a video that can be read. Use mp4"):
        open_video(str(path), "clip.mp4", LIMITS)


def test_bad_videos_are_named(tmp_path):
    path = write_video(tmp_path / "a.mp4", size=(64, 48))
    with pytest.raises(MediaError, match="limit is 0.003 megapixels.* It has 64 x 48"):
        open_video(path, "clip.mp4", Limits(image_pixels=3000))
    with pytest.raises(MediaError, match="video is too large"):
        open_video(path, "clip.mp4", Limits(video_bytes=100))
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    with pytest.raises(MediaError, match="clip.mp4 cannot be read: it is damaged"):
        open_video(path, "clip.mp4", LIMITS)
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(MediaError, match="deleted. Upload it again"):
        open_video(path, "clip.mp4", LIMITS)

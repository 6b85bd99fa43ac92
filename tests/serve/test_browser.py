"""The page in a real browser."""

import json
import os
import shutil
import socket

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra 'web'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
LOADING = 60_000  # milliseconds


@pytest.fixture(scope="module")
def server(load, run_server):
    with run_server(load(image_pixels=4_000_000, video_frames=3)) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox", *camera]}
        browser = started.chromium.launch(**options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page in a window; at the end, nothing may have gone wrong in it."""
    contexts, problems = [], []

    def check(request):
        if not request.url.startswith((server.address, "data:", "blob:")):
            problems.append(request.url)

    def open_page(width=1400, height=900):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.set_default_timeout(LOADING)
        page.on("request", check)
        page.on("console", lambda x: problems.append(x.text) if x.type == "error" else None)
        page.on("pageerror", lambda x: problems.append(str(x)))
        page.goto(server.address)
        page.locator("#image input[type=file]").wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def upload(page, path):
    page.locator("#image input[type=file]").first.set_input_files(path)


def clear(page):
    page.get_by_label("Clear").or_(page.get_by_label("Remove Image")).first.click()
    page.locator("#message", has_text="Drop, paste").wait_for()


def wait_for_result(page, panel="first"):
    page.locator(f"#{panel}-title", has_text="detection").wait_for()


def wait_for_count(page, number, panel="first"):
    page.locator(f"#{panel}-title", has_text=f": {number} detection").wait_for()


def wait_for_width(page, video):
    """Width of a video's first frame in pixels; `wait_for_function` would need eval."""
    for _ in range(LOADING // 100):
        width = page.evaluate("x => document.querySelector(x)?.videoWidth", video)
        if width:
            return width
        page.wait_for_timeout(100)
    raise AssertionError(f"no frame of {video} came")


def choose(page, control, name):
    page.locator(f"#{control} input").click()
    page.get_by_role("option", name=name).click()


def save(page, button):
    with page.expect_download() as download:
        page.locator(f"#{button}").click()
    return download.value


def look(page, tmp_path, name):
    """A screenshot, for those who want to see it, and a check that nothing sticks out."""
    page.screenshot(path=str(tmp_path / f"{name}.png"), full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def expected_scores(load, picture, model, stage=-1):
    from sparsercnn.serve.uploads import Upload

    return load().find(model, Upload(picture.read_bytes()))[stage].scores


def test_an_image_is_uploaded_filtered_and_saved(open_page, load, picture, tmp_path):
    page = open_page()
    upload(page, picture)
    wait_for_result(page)
    scores = expected_scores(load, picture, "two")
    wait_for_count(page, (scores >= 0.5).sum())
    page.locator("#threshold input[type=range]").fill("0")
    wait_for_count(page, len(scores))
    middle = float(scores[2].round(2)) - 0.01
    page.locator("#threshold input[type=range]").fill(str(middle))
    wait_for_count(page, (scores >= middle).sum())
    page.locator("#threshold input[type=range]").fill("0")
    wait_for_count(page, len(scores))
    look(page, tmp_path, "detections")

    found = json.loads(save(page, "first-save-json").path().read_text())
    assert [x["score"] for x in found] == pytest.approx(scores.tolist())
    assert {x["file_name"] for x in found} == {"a.png"}
    download = save(page, "first-save-csv")
    assert download.suggested_filename == "a-detections.csv"
    assert len(download.path().read_text().splitlines()) == 1 + len(found)
    assert Image.open(save(page, "first-save-picture").path()).size == (64 * 4, 48 * 4)

    name = found[0]["category_name"]
    choose(page, "classes", name)
    wait_for_count(page, sum(x["category_name"] == name for x in found))
    page.keyboard.press("Escape")
    for other in {x["category_name"] for x in found} - {name}:
        assert other not in page.locator("#first-table").inner_text()
    assert name in page.locator("#first-table").inner_text()


def test_stages_and_two_models_side_by_side(open_page, load, picture, tmp_path):
    page = open_page()
    page.locator(".gallery-item").first.click()
    wait_for_result(page)
    clear(page)
    upload(page, picture)
    wait_for_result(page)
    assert page.locator("#stage input[type=range]").get_attribute("max") == "2"
    assert page.locator("#second-title").is_hidden()
    choose(page, "second", "three")
    wait_for_result(page, "second")
    assert page.locator("#stage input[type=range]").get_attribute("max") == "3"
    for stage in (3, 2, 1):
        page.locator("#stage input[type=range]").fill(str(stage))
        for threshold in ("0.3", "0.5"):
            page.locator("#threshold input[type=range]").fill(threshold)
            for panel, model, last in (("first", "two", 2), ("second", "three", 3)):
                scores = expected_scores(load, picture, model, min(stage, last) - 1)
                wait_for_count(page, (scores >= float(threshold)).sum(), panel)
    page.locator("#threshold input[type=range]").fill("0")
    wait_for_count(page, 6, "second")
    look(page, tmp_path, "side_by_side")
    page.set_viewport_size({"width": 400, "height": 800})
    look(page, tmp_path, "narrow")
    choose(page, "second", "(none)")
    page.locator("#second-title").wait_for(state="hidden")


def test_a_picture_is_taken_with_the_camera(open_page):
    page = open_page()
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    # Until the first frame is there, Gradio's button does nothing.
    wait_for_width(page, "video")
    page.get_by_label("capture photo").click()
    wait_for_result(page)


def test_mistakes_give_a_message(open_page, huge_png, picture, tmp_path):
    page = open_page()
    upload(page, picture)
    wait_for_result(page)
    for name, content, message in (
        ("note.png", b"hello", "note.png is not an image that can be read"),
        ("huge.png", huge_png, "huge.png has too many pixels: the limit is 4 megapixels"),
        ("<b>x</b>.png", b"hello", "is not an image that can be read"),
    ):
        (tmp_path / "files").mkdir(exist_ok=True)
        path = tmp_path / "files" / name.replace("/", "")
        path.write_bytes(content)
        clear(page)
        upload(page, path)
        alert = page.locator("[role=alert]", has_text=message)
        alert.wait_for()
        assert alert.locator("b").count() == 0
        assert page.locator("#first-title").is_hidden()
        assert "Traceback" not in page.content()
    look(page, tmp_path, "mistake")


def choose_video(page, path):
    """Again if need be: Gradio may be busy with drawing the page when the file comes."""
    for attempt in range(3):
        page.locator("#video input[type=file]").set_input_files(path)
        try:
            page.locator("#video", has_text=os.path.basename(path)).wait_for(timeout=LOADING / 3)
            return
        except playwright.TimeoutError:
            if attempt == 2:
                raise


def test_a_video_is_drawn_and_played(open_page, tmp_path):
    import cv2
    import numpy as np

    path = str(tmp_path / "clip.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for i in range(5):
        writer.write(np.full((48, 64, 3), 50 * i, np.uint8))
    writer.release()
    page = open_page()
    page.get_by_role("tab", name="Video").click()
    page.locator("#start").click()
    page.locator("[role=alert]", has_text="Choose a video first").wait_for()
    choose_video(page, path)
    page.locator("#start").click()
    page.locator("#video-message", has_text="3 frames, ").wait_for()
    page.locator("#video-message", has_text="the rest of the video is left out").wait_for()
    page.locator("#video-result video").wait_for()
    assert wait_for_width(page, "#video-result video") == 256
    look(page, tmp_path, "video")
    assert save(page, "video-save-video").suggested_filename == "clip.webm"
    found = json.loads(save(page, "video-save-json").path().read_text())
    assert {x["image_id"] for x in found} <= {0, 1, 2}


def test_the_server_asks_no_other_machine(load, run_server, browser, picture, monkeypatch):
    asked, connect = [], socket.socket.connect

    def watched(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "127.0.0.1":
            asked.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    look_up = socket.getaddrinfo

    def watched_names(host, *args, **options):
        if host not in ("127.0.0.1", "localhost"):
            asked.append(host)
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", watched_names)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")  # whatever the user's machine has
    with run_server(load()) as server:
        page = browser.new_page()
        page.set_default_timeout(LOADING)
        page.goto(server.address)
        upload(page, picture)
        wait_for_result(page)
        folder = server.folder
        assert os.listdir(folder)
        page.close()
    assert asked == []
    assert not os.path.exists(folder)

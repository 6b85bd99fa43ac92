"""The pages in a real browser."""

import json
import shutil

import pytest

from sparsercnn.cli import report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")


@pytest.fixture(scope="module")
def pages(make_squares, tmp_path_factory):
    folder = make_squares(tmp_path_factory.mktemp("squares"))
    results = [
        {"image_id": i, "category_id": 1 + i % 2, "bbox": [10, 10, 30, 20 + i], "score": 0.9}
        for i in range(3)
    ]
    for score in (0.6, 0.3, 0.1):
        results.append({**results[1], "bbox": [40, 40, 15, 15], "score": score})
    (folder / "results.json").write_text(json.dumps(results))
    out = folder / "out"
    data = f"coco:{folder}/squares.json@{folder}"
    arguments = ["--predictions", str(folder / "results.json"), "--dataset", data]
    assert report.main([*arguments, "--output", str(out), "--resamples", "10"]) == 0
    return out


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}
        browser = started.chromium.launch(**options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, pages):
    """Opens a page as a file; nothing may go wrong in it, nor be asked of a network."""
    contexts, problems = [], []

    def open_page(name, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda x: x.url.startswith(("file:", "data:")) or problems.append(x.url))
        page.on("requestfailed", lambda x: problems.append(x.url))
        page.on("console", lambda x: problems.append(x.text) if x.type == "error" else None)
        page.on("pageerror", lambda x: problems.append(str(x)))
        page.goto(f"file://{pages}/{name}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def test_images_are_filtered_opened_and_turned_by_keys(open_page):
    page = open_page("browse.html", viewport={"width": 1200, "height": 800})
    cards, name = page.locator(".card"), page.locator("#name")
    assert cards.count() == 4 and page.locator("#count").inner_text() == "4 images"
    boxes = page.locator("figure >> nth=1").locator("rect")
    page.select_option("#sort", "number")
    cards.nth(1).click()
    name.get_by_text("2 of 4: 1.png").wait_for()
    # The best threshold takes the find alone, the slider what is above it.
    page.locator("figure >> nth=1").locator("image").wait_for()
    assert boxes.count() == 1 and boxes.first.get_attribute("stroke") == "#22a559"
    for score, number in (("0.5", 2), ("0.2", 3), ("0", 4), ("0.95", 0)):
        page.locator("#score").fill(score)
        page.locator("figcaption", has_text=f"model: {number}").wait_for()
        assert boxes.count() == number
    assert not page.locator("#best").is_checked()
    page.locator("#best").check()
    page.locator("figcaption", has_text="model: 1").wait_for()
    page.locator("#name").click()
    page.keyboard.press("ArrowRight")
    name.get_by_text("3 of 4: 2.png").wait_for()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # there is none before the first
    name.get_by_text("1 of 4: 0.png").wait_for()
    assert "image=0" in page.url
    page.keyboard.press("Escape")
    assert page.locator("#viewer").is_hidden() and cards.first.is_visible()

    page.select_option("#kind", "miss")
    assert cards.count() == 1 and "3.png" in cards.first.inner_text()
    page.select_option("#kind", "")
    page.select_option("#class", "even")
    assert page.locator("#count").inner_text() == "2 images"
    # Thumbnails and pictures are there.
    loaded = "[...document.images].every((x) => x.complete && x.naturalWidth > 0)"
    page.wait_for_function(loaded)


def test_a_telephone_in_the_dark(open_page, tmp_path):
    options = {"viewport": {"width": 380, "height": 750}, "color_scheme": "dark"}
    for name in ("index.html", "browse.html", "browse.html#sort=most-bkg&image=1"):
        page = open_page(name, **options)
        page.wait_for_load_state()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert back == "rgb(22, 24, 27)"
    assert page.locator("#name").inner_text().endswith("1.png")
    page.locator("#next").click()
    page.screenshot(path=str(tmp_path / "telephone.png"))

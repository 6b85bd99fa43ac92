"""Nobody reads files of the server, and no other web page uses it."""

import json
import os
import urllib.parse

import pytest

pytest.importorskip("gradio", reason="needs the extra 'web'")

from sparsercnn.serve.guard import Guard


@pytest.fixture(scope="module")
def server(load, run_server):
    with run_server(load(image_bytes=50_000, video_bytes=100_000)) as found:
        yield found


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(b"the secret")
    return str(path)


def upload(server, name, content):
    """Upload a file as the page does; returns its path on the server."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    body = head.encode() + content + b"\r\n--x--\r\n"
    status, _, answer = server.call("/gradio_api/upload", body, kind)
    assert status == 200, answer
    return json.loads(answer)[0]


def join(server, image):
    """Ask the page to show an image; the answer to that, and what the page is told then."""
    config = json.loads(server.call("/config")[2])
    number = next(x["id"] for x in config["dependencies"] if x["targets"][0][1] == "change")
    data = [image, "two", "(none)", 0, 2, []]
    event = {"data": data, "fn_index": number, "session_hash": "abc", "trigger_id": 1}
    status, _, answer = server.call_json("/gradio_api/queue/join", event)
    if status != 200:
        return status, answer.decode()
    return status, server.call("/gradio_api/queue/data?session_hash=abc")[2].decode()


def file_data(path, **more):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def test_an_uploaded_image_is_shown(server, picture):
    path = upload(server, "a.png", picture.read_bytes())
    assert path.startswith(server.folder)
    assert server.call(f"/gradio_api/file={path}")[2] == picture.read_bytes()
    status, events = join(server, file_data(path, orig_name="a.png"))
    assert status == 200
    assert "detections" in events and "a-detections.json" in events


def test_an_upload_that_is_no_image_gives_a_message(server):
    path = upload(server, "a.png", b"<b>hello</b>")
    status, events = join(server, file_data(path, orig_name="<img src=x onerror=alert()>.png"))
    assert status == 200
    assert "is not an image that can be read" in events
    assert "&lt;img" in events and "<img" not in events
    assert "Traceback" not in events


def test_files_of_the_server_cannot_be_named(server, secret):
    for path in (
        secret,
        f"{server.folder}/../{os.path.basename(secret)}",
        "http://127.0.0.1/a.png",
    ):
        status, events = join(server, file_data(path))
        assert status == 403
        assert "Upload the file" in events
    assert not any("secret.png" in files for _, _, files in os.walk(server.folder))


def test_gradio_refuses_them_too(server, secret, monkeypatch):
    monkeypatch.setattr(Guard, "_is_in_folder", lambda self, path: True)
    _, events = join(server, file_data(secret))
    assert "process_completed" in events and '"success":false' in events
    assert not any("secret.png" in files for _, _, files in os.walk(server.folder))
    assert server.call(f"/gradio_api/file={secret}")[0] in (403, 404)


@pytest.mark.parametrize("form", ["{}", "/{}", "..{}", "{folder}/..{}", "{folder}/%2e%2e{}"])
def test_files_of_the_server_are_not_served(server, secret, form):
    path = urllib.parse.quote(form.format(secret, folder=server.folder), safe="/%")
    for route in ("/gradio_api/file=", "/gradio_api/file/", "/static/", "/assets/", "/"):
        status, _, body = server.call(route + path)
        assert b"the secret" not in body
        assert status in (403, 404)


@pytest.mark.parametrize(
    "route",
    [
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/file=http://127.0.0.1/",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/vibe-code/",
        "/gradio_api/dev/reload",
        "/gradio_api/runs",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/gradio_api/queue/../info",
    ],
)
def test_routes_that_the_page_does_not_need_are_closed(server, route):
    assert server.call(route)[0] == 404
    assert server.call_json(route, {})[0] == 404


def test_an_uploaded_drawing_runs_no_scripts(server):
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    path = upload(server, "a.svg", drawing)
    assert "is not an image" in join(server, file_data(path, orig_name="a.svg"))[1]
    headers = server.call(f"/gradio_api/file={path}")[1]
    assert headers["Content-Disposition"].startswith("attachment")
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_large_requests_are_refused(server):
    assert server.call("/api/predict", bytes(50_001))[0] == 413
    assert server.call("/api/predict", bytes(50_000))[0] == 400
    status, _, body = server.call_json("/gradio_api/queue/join", {"data": "x" * 2**20})
    assert status == 413 and b"too large" in body
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    for size in (100_001, 3 * 2**20):
        status, _, body = server.call("/gradio_api/upload", head + bytes(size) + b"\r\n--x--", kind)
        assert status == 413 and b"Traceback" not in body


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff\xfe"])
def test_requests_that_are_no_json_are_refused(server, body):
    assert server.call("/gradio_api/queue/join", body)[0] == 400


def test_other_web_pages_are_kept_out(server, picture):
    content = picture.read_bytes()
    assert server.call("/api/predict", content, {"Origin": server.address})[0] == 200
    for headers in ({"Origin": "https://example.org"}, {"Origin": "null"}):
        assert server.call("/api/predict", content, headers)[0] == 403
    assert server.call("/", headers={"Host": "example.org"})[0] == 400


def test_browsers_are_told_to_load_nothing_from_elsewhere(server):
    status, headers, body = server.call("/")
    assert status == 200
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert b"fonts.googleapis" not in body and b"cdnjs" not in body
    assert b"fonts.googleapis" not in server.call("/theme.css")[2]
    config = json.loads(server.call("/config")[2])
    assert config["analytics_enabled"] is False
    assert server.call("/api/models")[1]["Content-Security-Policy"]

"""The REST call gives the json of the demo, and refuses the rest with a message."""

import json
import threading
import time

import pytest

pytest.importorskip("gradio", reason="needs the extra 'web'")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from sparsercnn import Predictor
from sparsercnn.cli import predict
from sparsercnn.serve.api import make_router


@pytest.fixture
def client(load):
    """A client of the REST call alone."""

    def start(**limits):
        app = FastAPI()
        app.include_router(make_router(load(**limits)))
        return TestClient(app)

    return start


@pytest.mark.parametrize("threshold", ["0", "0.5"])
def test_the_json_is_that_of_the_demo(
    client, run_folders, picture, tmp_path, monkeypatch, threshold
):
    monkeypatch.chdir(picture.parent)
    options = ["--opts", "MODEL.WEIGHTS", run_folders["three"], "MODEL.DEVICE", "cpu"]
    arguments = ["--input", "a.png", "--output", str(tmp_path), "--confidence-threshold", threshold]
    assert predict.main([*arguments, *options]) == 0
    query = {"model": "three", "file_name": "a.png", "threshold": threshold}
    response = client().post("/api/predict", content=picture.read_bytes(), params=query)
    assert response.status_code == 200
    expected = json.loads((tmp_path / "detections.json").read_text())
    assert response.json() == expected
    assert len(expected) > 0


def test_without_options_it_is_the_first_model_from_one_half(client, picture):
    client = client()
    plain = client.post("/api/predict", content=picture.read_bytes()).json()
    query = {"model": "two", "threshold": 0.5}
    found = client.post("/api/predict", content=picture.read_bytes(), params=query).json()
    assert plain == found
    assert all(x["score"] >= 0.5 and x["file_name"] is None for x in plain)


def test_the_models_are_listed(client):
    names = ["mug", "spoon", "plate"]
    assert client().get("/api/models").json() == [
        {"name": "two", "classes": names, "stages": 2},
        {"name": "three", "classes": names, "stages": 3},
    ]


@pytest.mark.parametrize(
    "query,message",
    [
        ({"model": "four"}, "no model 'four'. The models are: two, three"),
        ({"model": "/etc/passwd"}, "no model '/etc/passwd'"),
        ({"threshold": "half"}, "threshold is half; it must be a number from 0 to 1"),
        ({"threshold": "nan"}, "threshold is nan"),
        ({"threshold": "1.5"}, "threshold is 1.5"),
        ({"path": "/etc/passwd"}, "There is no 'path'; use model, threshold and file_name"),
    ],
)
def test_wrong_options_are_named(client, picture, query, message):
    response = client().post("/api/predict", content=picture.read_bytes(), params=query)
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize("content", [b"", b"hello", b"/etc/passwd", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(client, content):
    response = client().post("/api/predict", content=content)
    assert response.status_code == 400
    assert set(response.json()) == {"error"}
    assert "Traceback" not in response.text


def test_a_huge_image_is_refused(client, huge_png):
    response = client().post("/api/predict", content=huge_png, params={"file_name": "../h.png"})
    assert response.status_code == 400
    assert response.json()["error"].startswith("h.png has too many pixels")


def test_twenty_requests_at_once(serve, picture, monkeypatch):
    server, content = serve(waiting=4), picture.read_bytes()
    refused, stages = threading.Event(), Predictor.stages

    def slow(self, *args, **options):
        assert refused.wait(60)
        return stages(self, *args, **options)

    monkeypatch.setattr(Predictor, "stages", slow)
    answers = []

    def ask(number):
        answers.append(server.call(f"/api/predict?threshold=0&file_name={number}", content))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for _ in range(600):
        if len(answers) == 16:
            break
        time.sleep(0.1)
    assert [status for status, _, _ in answers] == [503] * 16
    assert "Too many requests" in json.loads(answers[0][2])["error"]
    assert answers[0][1]["Retry-After"] == "1"
    refused.set()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _, _ in answers) == [200] * 4 + [503] * 16
    assert server.call("/api/predict", content)[0] == 200


def test_an_image_that_is_sent_too_slowly_frees_its_place(serve):
    import socket

    server = serve(waiting=1, upload_seconds=0.2)
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /api/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n\r\nx"
        connection.sendall(head.encode())
        assert b"400 Bad Request" in connection.recv(4096)
    assert json.loads(server.call("/api/predict", b"x")[2])["error"].startswith("The file is not")

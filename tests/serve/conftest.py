"""Two tiny models with random weights, files that are no good, and a server."""

import contextlib
import json
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

import sparsercnn
from sparsercnn import get_config
from sparsercnn.engine.checkpoint import SafeCheckpointer

NAMES = ["mug", "spoon", "plate"]
TINY = {
    "FPN.OUT_CHANNELS": 32,
    "SparseRCNN.HIDDEN_DIM": 32,
    "SparseRCNN.NHEADS": 4,
    "SparseRCNN.DIM_FEEDFORWARD": 64,
    "SparseRCNN.DIM_DYNAMIC": 8,
    "SparseRCNN.NUM_PROPOSALS": 6,
    "SparseRCNN.NUM_CLASSES": 3,
    "DEVICE": "cpu",
}


def save_model(folder, num_stages, seed):
    options = [x for key, value in TINY.items() for x in (f"MODEL.{key}", value)]
    options += ["MODEL.SparseRCNN.NUM_HEADS", num_stages, "INPUT.MIN_SIZE_TEST", 96]
    cfg = get_config("quickstart/sparsercnn", options)
    torch.manual_seed(seed)
    model = build_model(cfg)
    with torch.no_grad():
        for stage in model.head.head_series:
            stage.class_logits.bias.zero_()  # scores around 0.5, not 0.01
            stage.class_logits.weight.mul_(10)
            stage.bboxes_delta.weight.mul_(0.1)
    ids = {11: 0, 22: 1, 33: 2}
    metadata = {"thing_classes": NAMES, "thing_dataset_id_to_contiguous_id": ids}
    metadata["config_yaml"] = cfg.dump()
    SafeCheckpointer(model, str(folder), metadata=metadata).save("model_final")
    return str(folder)


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory):
    """Folders of runs, by name of the model: of two stages and of three."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("two", "three")}
    return {
        "two": save_model(folders["two"], num_stages=2, seed=0),
        "three": save_model(folders["three"], num_stages=3, seed=1),
    }


@pytest.fixture(scope="session")
def load(run_folders):
    """Makes Models of these, with limits given as keyword arguments."""
    loaded = {name: sparsercnn.load(folder, "cpu") for name, folder in run_folders.items()}

    def load(**limits):
        from sparsercnn.serve.limits import Limits
        from sparsercnn.serve.models import Models

        return Models(loaded, Limits(**limits))

    return load


def make_picture(size=(48, 64)):
    height, width = size
    pixels = np.random.RandomState(0).randint(0, 60, (height, width, 3))
    pixels[: height // 2, : width // 3, 0] += 190
    pixels[height // 3 :, width // 2 :, 1] += 90
    return pixels.astype(np.uint8)


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """Path of an image file."""
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(make_picture()).save(path)
    return path


def png_of_size(width, height):
    """A PNG that says that it has this size, and holds one row of pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(width + 1)))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="session")
def huge_png():
    return png_of_size(60_000, 60_000)


class Server:
    """A running server."""

    def __init__(self, address, folder):
        self.address = address
        self.folder = folder

    def call(self, path, data=None, headers=()):
        """Status, headers and body of the response."""
        request = urllib.request.Request(self.address + path, data, dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def call_json(self, path, content):
        return self.call(path, json.dumps(content).encode(), {"Content-Type": "application/json"})


@pytest.fixture(scope="session")
def run_server():
    """Context manager of a server of Models, which gives a Server."""
    return _run_server


@contextlib.contextmanager
def _run_server(models):
    import uvicorn

    from sparsercnn.serve.app import create_app, private_folder

    with private_folder() as folder:
        config = uvicorn.Config(create_app(models, folder), port=0, log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield Server(f"http://127.0.0.1:{port}", folder)
        finally:
            server.should_exit = server.force_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


@pytest.fixture
def serve(load, run_server):
    """Starts a server of both models, with limits given as keyword arguments."""
    with contextlib.ExitStack() as stack:
        yield lambda **limits: stack.enter_context(run_server(load(**limits)))


@pytest.fixture
def clip(tmp_path):
    """Path of a video of 5 frames of 64 x 48."""
    import cv2

    path = str(tmp_path / "clip.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for i in range(5):
        writer.write(np.full((48, 64, 3), 50 * i, np.uint8))
    writer.release()
    return path

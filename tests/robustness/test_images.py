"""Image files: a table of what is wrong -> the line that says so, wherever images are opened."""

import os
import re
import struct
import subprocess
import zlib
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from sparsercnn.data import DataError, build_test_loader, build_train_loader, register_datasets
from sparsercnn.data.image_check import image_problem
from sparsercnn.errors import ImageError
from sparsercnn.image_files import load_image
from sparsercnn.inference.detections import make_result
from sparsercnn.inference.predictor import Predictor
from sparsercnn.modeling.tta import SparseRCNNWithTTA

WIDTH, HEIGHT = 20, 10

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 10\n%%EndComments\nshowpage\n%%EOF\n"


def _png(width, height, depth=8):
    """A PNG of one grey channel whose header says anything."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def _saved(image, form, **options):
    def write(path):
        image.save(path, form, **options)

    return write


def _bytes(content):
    return lambda path: path.write_bytes(content)


def _cut(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (10, 20, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:400])


FLOATS = np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)

NO_FORMAT = r"in none of the formats that are read, BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP\. Convert"
UNUSABLE = {
    "PostScript": (_bytes(POSTSCRIPT), NO_FORMAT),
    "PostScript in DOS": (_bytes(b"\xc5\xd0\xd3\xc6" + bytes(28) + POSTSCRIPT), NO_FORMAT),
    "PDF": (_bytes(b"%PDF-1.4\n%%EOF"), NO_FORMAT),
    "an icon": (_saved(Image.new("RGB", (20, 10)), "ICO"), NO_FORMAT),
    "text": (_bytes(b"hello"), NO_FORMAT),
    "empty": (_bytes(b""), NO_FORMAT),
    "cut off": (_cut, r"truncated|damaged|broken"),
    "a bomb": (_bytes(_png(100_000, 100_000)), r"exceeds limit of .* could be decompression bomb"),
    "fractions": (_saved(Image.fromarray(FLOATS), "TIFF"), r"fractions, such as 0 to 1.*save them"),
    "32 bits": (
        _saved(Image.fromarray(np.full((10, 20), 70_000, np.int32)), "TIFF"),
        r"its pixels are integers of 32 bits, whose range is not known\. Scale them to 0 to 255",
    ),
    "a pipe": (os.mkfifo, r"it is a pipe, and only regular files are read"),
    "a folder": (os.mkdir, r"it is a folder, and only regular files are read"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), r"it is a device, and only regular"),
}


@pytest.fixture
def spoil(write, content, tmp_path):
    """Makes the second image of a data set anew; gives (cfg, entry, path)."""

    def spoil(make):
        cfg, entry = write(content)
        path = tmp_path / "images/2.png"
        path.unlink()
        make(path)
        register_datasets([entry])
        return cfg, entry, path

    return spoil


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_image_is_named_wherever_it_is_opened(spoil, case, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"a program is started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    make, line = UNUSABLE[case]
    cfg, entry, path = spoil(make)
    named = rf"Unusable image {re.escape(str(path))}: .*({line}).*DATASETS\.SKIP_INVALID True"
    for loader in (build_train_loader(cfg), build_test_loader(cfg, entry)):
        with pytest.raises(DataError, match=named):
            list(islice(loader, 9))
    cfg.DATASETS.SKIP_INVALID = True
    found = [x["image_id"] for batch in islice(build_train_loader(cfg), 9) for x in batch]
    assert found == [1] * 9
    assert [x["image_id"] for batch in build_test_loader(cfg, entry) for x in batch] == [1]
    assert re.search(line, image_problem({"file_name": str(path)}))

    named = rf"Cannot read {re.escape(str(path))}: .*({line})"
    predictor = Predictor(model=torch.nn.Identity(), augmentations=[])
    for read in (
        lambda: load_image(path),
        lambda: predictor(path),
        lambda: make_result({"instances": None}, None, file_name=path).image,
        lambda: SparseRCNNWithTTA(_Anything(), tta_mapper=None)._read({"file_name": str(path)}),
    ):
        with pytest.raises(ImageError, match=named):
            read()


class _Anything(torch.nn.Module):
    input_format = "RGB"


def test_an_image_that_is_missing_is_one_line():
    with pytest.raises(ImageError, match=r"^Cannot read gone\.png: No such file or directory\.$"):
        load_image("gone.png")


def _sixteen(form):
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 327

    def write(path):
        if form == "PPM":
            header = f"P5 {WIDTH} {HEIGHT} 65535\n".encode()
            path.write_bytes(header + values.astype(">u2").tobytes())
        else:
            Image.fromarray(values).save(path, form)

    return write, np.round(values / 65535 * 255).astype(np.uint8)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_become_eight_everywhere(spoil, form):
    make, expected = _sixteen(form)
    cfg, entry, path = spoil(make)
    expected = np.repeat(expected[..., None], 3, axis=2)
    assert len(np.unique(expected)) > 190
    assert np.array_equal(load_image(path, "BGR"), expected)
    for loader in (build_train_loader(cfg), build_test_loader(cfg, entry)):
        found = {x["image_id"]: x["image"] for batch in islice(loader, 9) for x in batch}
        assert np.array_equal(found[2].permute(1, 2, 0).numpy(), expected)
    seen = []

    class Model(torch.nn.Module):
        def forward(self, inputs):
            seen.extend(x["image"].permute(1, 2, 0).numpy() for x in inputs)
            return [{"sem_seg": torch.zeros(2, HEIGHT, WIDTH)} for _ in inputs]

    predictor = Predictor(model=Model(), augmentations=[])
    result = predictor(path)
    predictor(Image.open(path))
    assert all(np.array_equal(image, expected) for image in [*seen, result.image])
    assert len(seen) == 2


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_is_turned_once(tmp_path, form, orientation):
    """Pillow turns a TIFF by itself when it is decoded."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    turns |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # from upright to what is stored
    stored = Image.fromarray(upright)
    if orientation in turns:
        stored = stored.transpose(Image.Transpose[turns[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned"
    stored.save(path, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    image = load_image(path, "RGB")
    assert image.shape == (32, 48, 3)
    assert np.abs(image.astype(int) - upright).mean() < 3
    assert image_problem({"file_name": str(path), "width": 48, "height": 32}) is None
    with Image.open(path) as opened:
        seen = Predictor(model=_Shapes(), augmentations=[])(opened)
    assert seen.image.shape == (32, 48, 3)


class _Shapes(torch.nn.Module):
    def forward(self, inputs):
        return [{"sem_seg": torch.zeros(2, *x["image"].shape[1:])} for x in inputs]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_an_image_of_pillow_of_32_bits_is_refused(mode):
    predictor = Predictor(model=_Shapes(), augmentations=[])
    with pytest.raises(ImageError, match=r"An image of Pillow cannot be used: its pixels are .*32"):
        predictor(Image.new(mode, (20, 10), 1))


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_a_picture_of_one_pixels_height_is_named_in_training(write, content, tmp_path, size):
    content["images"][1].update(width=size[0], height=size[1])
    content["annotations"][1]["bbox"] = [0, 0, 1, 1]
    cfg, entry = write(content)
    Image.new("RGB", size).save(tmp_path / "images/2.png")
    register_datasets([entry])
    cfg.INPUT.MAX_SIZE_TRAIN = 100
    with pytest.raises(DataError, match=r"Unusable image .*2\.png: .*SKIP_INVALID"):
        list(islice(build_train_loader(cfg), 9))
    cfg.DATASETS.SKIP_INVALID = True
    found = [x["image_id"] for batch in islice(build_train_loader(cfg), 9) for x in batch]
    assert found == [1] * 9
    resize = ResizeShortestEdge(10, 100)
    with pytest.raises(ImageError, match="cannot be resized for the model"):
        Predictor(model=_Shapes(), augmentations=[resize])(tmp_path / "images/2.png")


def _damaged(content, number):
    """The content with one to eight bytes changed, or cut off, the same for each number."""
    rng = np.random.default_rng(number)
    changed = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        changed[rng.integers(len(changed))] = rng.integers(256)
    return bytes(changed[: rng.integers(len(changed))] if number % 4 == 0 else changed)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # of Pillow
@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_a_damaged_file_is_read_or_refused_with_our_error(tmp_path, form, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # changed headers ask for many
    pixels = np.random.default_rng(0).integers(0, 255, (10, 20, 3), np.uint8)
    path = tmp_path / "image"
    Image.fromarray(pixels).save(path, form)
    content = path.read_bytes()
    refused = 0
    for number in range(300):
        path.write_bytes(_damaged(content, number))
        try:
            image = load_image(path, "RGB")
        except ImageError:
            refused += 1
        else:
            assert image.dtype == np.uint8 and image.shape[2] == 3
    assert refused > 30

import numpy as np
import pytest
from PIL import Image

from sparsercnn.data.image_check import image_problem


@pytest.fixture
def path(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.jpg")
    return tmp_path / "image.jpg"


def test_a_good_image_of_the_annotated_size(path):
    assert image_problem({"file_name": str(path), "width": 64, "height": 48}) is None
    assert image_problem({"file_name": str(path)}) is None


def test_another_size(path):
    problem = image_problem({"file_name": str(path), "width": 48, "height": 64})
    assert problem == "its size is 64 x 48, annotated as 48 x 64"


def test_a_photograph_on_its_side_is_taken_upright(path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.open(path).save(path, exif=exif)
    assert image_problem({"file_name": str(path), "width": 48, "height": 64}) is None


def test_a_file_cut_off_in_its_pixels_and_one_mended_since(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "cannot be read: " in image_problem({"file_name": str(path)})
    path.write_bytes(content)
    assert image_problem({"file_name": str(path)}) is None
    path.unlink()
    assert "cannot be read: " in image_problem({"file_name": str(path)})

"""Pictures that are nearly the same are found, and others are not."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from sparsercnn.start import duplicates
from sparsercnn.start.duplicates import best_twins, group_similar, thumbnails


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        paths = []
        for name, array in arrays.items():
            path = tmp_path / f"{name}.png"
            Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(path)
            paths.append(str(path))
        return paths

    return save


def scene(seed):
    """Smooth shades: 8 x 8 random ones, enlarged."""
    small = np.random.default_rng(seed).integers(40, 200, (8, 8)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((96, 64)), float)


def test_brightness_contrast_noise_and_size_do_not_matter(save):
    noise = np.random.default_rng(5).normal(0, 8, (64, 96))
    one = scene(0)
    same = {"one": one, "brighter": one * 1.2 + 10, "noisy": one + noise, "half": one[::2, ::2]}
    others = {f"other{i}": scene(i) for i in range(1, 6)}
    groups = group_similar(save(**same, **others))
    assert len(set(groups.index[:4].tolist())) == 1
    assert len(set(groups.index.tolist())) == 6
    assert groups.num_similar == 4 and groups.level == 0.95


def test_thumbnails_are_correlations(save, tmp_path):
    one, other = scene(0), scene(1)
    flat = np.full((64, 96), 90.0)
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [*save(one=one, other=other, flat=flat, flat2=flat + 9), str(tmp_path / "broken.png")]
    vectors = thumbnails(paths)
    products = vectors @ vectors.T
    small = [np.asarray(Image.open(p).resize((32, 32), Image.BOX), float) for p in paths[:2]]
    expected = np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1]
    assert products[0, 1] == pytest.approx(expected, abs=1e-5)
    assert products[2, 3] == 1 and products[0, 2] == 0  # single shades
    assert not vectors[4].any()


def of_length_1(*shape):
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("num", [3, 64, 1000])
def test_groups_over_many_blocks(num, monkeypatch):
    vectors = of_length_1(num, 5)
    monkeypatch.setattr(duplicates, "thumbnails", lambda paths: vectors)
    groups = group_similar(range(num))
    # By hand: the lowest number spreads to all that correlate, until nothing changes.
    joined = vectors @ vectors.T > groups.level
    lowest = np.arange(num)
    while (lowest != (spread := np.where(joined, lowest, num).min(axis=1))).any():
        lowest = spread
    # In the order in which they appear first, so that a seed always gives the same division.
    _, expected = np.unique(lowest, return_inverse=True)
    assert groups.index.tolist() == expected.tolist()
    assert num < 1000 or groups.num_similar > 100


def test_frames_that_are_all_alike_take_little_memory(monkeypatch):
    """A few rows of 3,000 at a time; all 9 million pairs would take 137 MiB, and copies of them."""
    monkeypatch.setattr(duplicates, "thumbnails", lambda paths: np.ones((len(paths), 1)))
    tracemalloc.start()
    try:
        groups = group_similar(range(3000))
        similar_to_best = best_twins(np.ones((3000, 1)), np.ones((3000, 1)))[1]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert groups.level is None and (similar_to_best == 1).all()
    assert peak < 32 * 2**20


def test_best_twins_over_many_blocks():
    vectors, others = of_length_1(600, 4), of_length_1(50, 4)[::-1]
    twins, correlations = best_twins(vectors, others)
    products = vectors @ others.T
    assert twins.tolist() == products.argmax(axis=1).tolist()
    assert correlations == pytest.approx(products.max(axis=1))
    assert correlations[:50] == pytest.approx(1) and twins[:50].tolist() == list(range(49, -1, -1))


def test_a_camera_that_does_not_move_can_still_be_divided(save):
    ground = scene(0)
    frames = {}
    for i in range(12):
        frame = ground.copy()
        frame[5 * i : 5 * i + 9, 40:60] += 60  # something small moves
        frames[f"f{i:02}"] = frame
    groups = group_similar(save(**frames))
    assert len(set(groups.index.tolist())) > 2
    same = save(**{f"same{i}": ground for i in range(8)})
    assert group_similar(same).level is None


def test_grey_pictures_of_16_bits_are_told_apart(tmp_path):
    paths = []
    for seed in range(5):
        paths.append(str(tmp_path / f"{seed}.png"))
        Image.fromarray((scene(seed) * 200).astype(np.uint16)).save(paths[-1])
    Image.fromarray(scene(0).astype(np.uint8)).save(tmp_path / "eight.png")
    groups = group_similar([*paths, str(tmp_path / "eight.png")])
    assert groups.level == 0.95 and groups.index.tolist() == [0, 1, 2, 3, 4, 0]


def test_a_picture_of_32_bits_whose_range_is_not_known_is_like_nothing(tmp_path):
    Image.fromarray(scene(0).astype(np.float32)).save(tmp_path / "fractions.tif")
    assert not thumbnails([str(tmp_path / "fractions.tif")]).any()

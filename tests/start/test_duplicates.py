"""Pictures that are nearly the same are found, and others are not."""

import numpy as np
import pytest
from PIL import Image

from sparsercnn.start.duplicates import group_similar, similar_pairs, thumbnails


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


def test_pairs_over_many_blocks():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(5000, 4)).astype(np.float32)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = first[[4999, 3, 2500]]
    rows, columns = similar_pairs(first, second, 0.9999)
    pairs = set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert {(4999, 0), (3, 1), (2500, 2)} <= pairs
    expected = np.argwhere(first @ second.T > 0.9999)
    assert pairs == set(map(tuple, expected.tolist()))


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

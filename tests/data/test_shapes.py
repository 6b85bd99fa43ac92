import json
import multiprocessing

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from matplotlib.path import Path as Outline
from PIL import Image

from sparsercnn.data import DataError, make_shapes
from sparsercnn.data.coco import read_coco
from sparsercnn.data.shapes import CLASS_NAMES, draw_scene

FEW = {"train": 5, "val": 3}


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene((5, i), 128) for i in range(120)]


def _centres_inside(polygon, size):
    """(size, size), bool: by matplotlib, which has no part in drawing."""
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    return Outline(np.concatenate([polygon, polygon[:1]])).contains_points(points).reshape(x.shape)


def test_a_seed_gives_one_scene_on_every_machine():
    scene, again = draw_scene((1, 4), 128), draw_scene((1, 4), 128)
    assert np.array_equal(scene.image, again.image)
    assert np.array_equal(scene.labels, again.labels)
    assert not np.array_equal(scene.image, draw_scene((1, 3), 128).image)
    # Written down once: a change of these numbers needs a new _VERSION in shapes_files.py.
    assert [(CLASS_NAMES[x.class_index], x.box) for x in scene.shapes] == [
        ("rectangle", [77.51, 44.59, 29.17, 22.4]),
        ("triangle", [6.31, 36.99, 61.71, 66.64]),
        ("ellipse", [63.2, 83.3, 23.89, 27.39]),
    ]


def test_labels_are_what_is_seen_of_the_polygons(scenes):
    for scene in scenes[:40]:
        expected = np.zeros_like(scene.labels)
        for shape in scene.shapes:
            expected[_centres_inside(shape.polygon, 128)] = 1 + shape.class_index
        assert np.array_equal(scene.labels, expected)


def test_boxes_are_the_tight_extent_of_polygons_within_the_image(scenes):
    for shape in (shape for scene in scenes for shape in scene.shapes):
        x, y, width, height = shape.box
        low, high = shape.polygon.min(axis=0), shape.polygon.max(axis=0)
        assert np.allclose([x, y, x + width, y + height], [*low, *high], atol=0.011)
        assert low.min() >= 0
        assert high.max() <= 128
        assert 23.9 < max(width, height) < 72.1


def test_shapes_have_their_names_corners(scenes):
    shapes = [shape for scene in scenes for shape in scene.shapes]
    corners = {"rectangle": 4, "ellipse": 36, "triangle": 3}
    assert {len(x.polygon) == corners[CLASS_NAMES[x.class_index]] for x in shapes} == {True}
    # Right angles, and the shoelace formula against side times side.
    rectangle = next(x for x in shapes if CLASS_NAMES[x.class_index] == "rectangle")
    a, b, c, _ = rectangle.polygon
    assert abs(np.dot(b - a, c - b)) < 0.05 * np.linalg.norm(b - a) * np.linalg.norm(c - b)
    assert rectangle.area == pytest.approx(np.linalg.norm(b - a) * np.linalg.norm(c - b), rel=0.01)


def test_most_of_every_shape_is_visible_and_stands_out(scenes):
    for scene in scenes[:40]:
        covered = np.zeros((128, 128), dtype=bool)
        ground = scene.image[scene.labels == 0].mean(axis=0)
        for shape in reversed(scene.shapes):
            inside = _centres_inside(shape.polygon, 128)
            visible = inside & ~covered
            assert visible.sum() >= 0.8 * inside.sum()
            assert np.abs(scene.image[visible].mean(axis=0) - ground).sum() > 60
            covered |= inside


def test_counts_and_classes_vary(scenes):
    counts = np.bincount([len(scene.shapes) for scene in scenes], minlength=5)
    assert len(counts) == 5, "at most four shapes"
    assert 1 <= counts[0] <= 12, "a few percent of the images are empty"
    assert all(counts[1:] >= 3)
    classes = np.bincount([x.class_index for scene in scenes for x in scene.shapes])
    assert all(classes / classes.sum() > 0.25)


def test_files_agree_with_each_other(tmp_path):
    root = tmp_path / "shapes"
    make_shapes(str(root), FEW, size=64, seed=3)
    for split, number in FEW.items():
        content = read_coco(str(root / "annotations" / f"{split}.json"))
        assert [x["name"] for x in content["categories"]] == list(CLASS_NAMES)
        assert len(content["images"]) == number
        assert content["annotations"]
        assert sorted(x.name for x in (root / split).iterdir()) == [
            x["file_name"] for x in content["images"]
        ]
        for image in content["images"]:
            assert Image.open(root / split / image["file_name"]).size == (64, 64)
            labels = np.array(Image.open(root / "labels" / split / image["file_name"]))
            annotations = [x for x in content["annotations"] if x["image_id"] == image["id"]]
            assert set(np.unique(labels)) <= {0, *(x["category_id"] for x in annotations)}
            for annotation in annotations:
                (flat,) = annotation["segmentation"]
                inside = _centres_inside(np.reshape(flat, (-1, 2)), 64)
                assert np.mean(labels[inside] == annotation["category_id"]) >= 0.8
                x, y, width, height = annotation["bbox"]
                assert (min(flat[::2]), min(flat[1::2])) == (x, y)
                assert max(flat[::2]) == pytest.approx(x + width, abs=0.011)
                assert max(flat[1::2]) == pytest.approx(y + height, abs=0.011)


def test_splits_hold_different_images(tmp_path):
    make_shapes(str(tmp_path / "shapes"), FEW, size=64)
    contents = [x.read_bytes() for x in (tmp_path / "shapes").glob("[tv][ra]*/*.png")]
    assert len(contents) == len(set(contents)) == 8


def test_a_set_is_kept_and_another_version_replaces_it(tmp_path):
    root = tmp_path / "shapes"
    make_shapes(str(root), FEW, size=64, seed=1)
    image = root / "train" / "000001.png"
    before = image.read_bytes()
    modified = image.stat().st_mtime_ns
    make_shapes(str(root), FEW, size=64, seed=1)
    assert image.stat().st_mtime_ns == modified
    (root / "train" / "000099.png").touch()
    make_shapes(str(root), FEW, size=64, seed=2)
    assert image.read_bytes() != before
    assert not (root / "train" / "000099.png").exists()
    assert [x.name for x in tmp_path.glob("shapes.*")] == ["shapes.lock"]


def test_a_folder_of_the_users_own_is_not_touched(tmp_path):
    root = tmp_path / "shapes"
    root.mkdir()
    (root / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match=r"holds other files.*DETECTRON2_DATASETS"):
        make_shapes(str(root), FEW, size=64)
    assert [x.name for x in root.iterdir()] == ["mine.txt"]


def _make_and_look(root, barrier, queue):
    barrier.wait()
    make_shapes(root, FEW, size=64)
    found = {}
    for split in FEW:
        with open(f"{root}/annotations/{split}.json") as file:
            images = json.load(file)["images"]
        found[split] = sum(Image.open(f"{root}/{split}/{x['file_name']}").width for x in images)
    queue.put(found)


def test_many_processes_may_make_it_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(6), context.Queue()
    root = str(tmp_path / "shapes")
    # What a process that was killed has left.
    (tmp_path / "shapes.0.tmp").mkdir()
    processes = [
        context.Process(target=_make_and_look, args=(root, barrier, queue)) for _ in range(6)
    ]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found == [{"train": 5 * 64, "val": 3 * 64}] * 6
    assert sorted(x.name for x in tmp_path.glob("shapes*")) == ["shapes", "shapes.lock"]


def test_nothing_is_left_when_drawing_fails(tmp_path, monkeypatch):
    def fail(seed, size):
        raise RuntimeError("no more ink")

    monkeypatch.setattr("sparsercnn.data.shapes_files.draw_scene", fail)
    with pytest.raises(RuntimeError, match="ink"):
        make_shapes(str(tmp_path / "shapes"), FEW, size=64)
    assert [x.name for x in tmp_path.glob("shapes*")] == ["shapes.lock"]


def test_registered_names_say_their_classes_without_files():
    for split in ("train", "val"):
        assert MetadataCatalog.get(f"shapes_{split}").thing_classes == list(CLASS_NAMES)
        metadata = MetadataCatalog.get(f"shapes_sem_seg_{split}")
        assert metadata.stuff_classes == ["background", *CLASS_NAMES]
        assert metadata.ignore_label == 255
        assert metadata.evaluator_type == "sem_seg"
        assert f"shapes_sem_seg_{split}" in DatasetCatalog

"""Folders of images and label maps: pairing, classes, errors that name the file, and the mapper."""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from sparsercnn.data import (
    DataError,
    SemSegDatasetMapper,
    build_test_loader,
    build_train_loader,
    check_num_classes,
    register_datasets,
)
from sparsercnn.data.label_map import read_label_map
from sparsercnn.data.semseg_mapper import build_sem_seg_augmentations
from sparsercnn.evaluation import build_evaluator

SIZE = (10, 20)  # height, width


@pytest.fixture(autouse=True)
def _forget_entries():
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg(cfg):
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.INPUT.MIN_SIZE_TRAIN = (SIZE[0],)
    return cfg


@pytest.fixture
def folders(tmp_path):
    """Three images with label maps of the values 0, 1, 2 and 255, one in a subfolder."""
    rng = np.random.default_rng(0)
    for stem in ("a", "b", "sub/c"):
        image = tmp_path / "images" / f"{stem}.{'png' if stem == 'a' else 'jpg'}"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(image)
        write_labels(tmp_path, stem, rng.choice([0, 1, 2, 255], SIZE))
    return tmp_path


def write_labels(root, stem, labels, mode=None):
    path = root / "labels" / f"{stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels).astype(np.uint8))
    if mode == "P":
        image.putpalette([7, 7, 7, 250, 0, 0, 0, 250, 0])
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(labels).astype(np.uint16))
    elif mode:
        image = image.convert(mode)
    image.save(path)
    return path


def entry(root):
    return f"semseg:{root}/images@{root}/labels"


def register(cfg, name):
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    register_datasets([name])
    return name


# ---- pairs and classes


def test_images_and_label_maps_are_paired_by_name(folders):
    (folders / "images" / "notes.txt").write_text("no image")
    name = entry(folders)
    register_datasets([name, name])
    records = DatasetCatalog.get(name)
    assert [x["image_id"] for x in records] == ["a", "b", "sub/c"]
    assert [x["file_name"] for x in records] == [
        str(folders / "images" / x) for x in ("a.png", "b.jpg", "sub/c.jpg")
    ]
    assert records[2]["sem_seg_file_name"] == str(folders / "labels/sub/c.png")
    assert all((x["height"], x["width"]) == SIZE and "problem" not in x for x in records)
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "sem_seg" and metadata.ignore_label == 255


def test_linked_subfolders_are_read(folders):
    for folder in ("images", "labels"):
        (folders / folder / "sub").rename(folders / f"store of {folder}")
        (folders / folder / "sub").symlink_to(folders / f"store of {folder}")
        (folders / folder / "._a.png").write_bytes(b"what macOS leaves beside a.png")
    register_datasets([entry(folders)])
    records = DatasetCatalog.get(entry(folders))
    assert [x["image_id"] for x in records] == ["a", "b", "sub/c"]
    assert records[2]["sem_seg_file_name"] == str(folders / "labels/sub/c.png")


@pytest.mark.parametrize("place", ["labels", "."])
def test_classes_txt_names_the_classes(folders, place, cfg):
    (folders / place / "classes.txt").write_text("ground\n\nred box\nball \n")
    name = register(cfg, entry(folders))
    assert MetadataCatalog.get(name).stuff_classes == ["ground", "red box", "ball"]
    check_num_classes(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    with pytest.raises(DataError, match=r"NUM_CLASSES is 4, .* has 3 classes: ground, red box"):
        check_num_classes(cfg)


def test_without_classes_txt_the_values_are_looked_for(folders, caplog):
    with caplog.at_level(logging.WARNING):
        register_datasets([entry(folders)])
    assert "all 3 label maps are read" in caplog.text
    names = MetadataCatalog.get(entry(folders)).stuff_classes
    assert names == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize("values", [[0, 255], [0, 2], [1, 2], [0, 128]])
def test_values_with_gaps_want_a_classes_txt(folders, values):
    for stem in ("a", "b", "sub/c"):
        write_labels(folders, stem, np.resize(values, SIZE))
    with pytest.raises(DataError, match=r"must be 0 to K - 1, .*labels/classes.txt, one per line"):
        register_datasets([entry(folders)])


@pytest.mark.parametrize("text", ["", "a\nb\na\n"])
def test_a_bad_classes_txt_is_named(folders, text):
    (folders / "labels" / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=r"labels/classes.txt: must have one class per line"):
        register_datasets([entry(folders)])


@pytest.mark.parametrize(
    "location, error, message",
    [
        ("images", DataError, "must have the form semseg:IMAGES@LABELS"),
        ("@labels", DataError, "must have the form semseg:IMAGES@LABELS"),
        ("{0}/images@{0}/lebals", FileNotFoundError, "no folder .*/lebals"),
        ("{0}/x@{0}/y", FileNotFoundError, "no folder .*/x and no folder .*/y"),
    ],
)
def test_malformed_entries(folders, location, error, message):
    with pytest.raises(error, match=message):
        register_datasets(["semseg:" + location.format(folders)])


def test_folders_may_have_an_at_sign(folders):
    (folders / "images").rename(folders / "im@ges")
    name = f"semseg:{folders}/im@ges@{folders}/labels"
    register_datasets([name])
    assert len(DatasetCatalog.get(name)) == 3


def test_two_images_of_one_name_are_an_error(folders):
    register_datasets([entry(folders)])
    Image.new("RGB", (20, 10)).save(folders / "images" / "a.jpg")
    with pytest.raises(DataError, match=r"a.jpg and .*a.png have the same name"):
        DatasetCatalog.get(entry(folders))


# ---- what is invalid


def break_labels_missing(root):
    (root / "labels" / "a.png").unlink()
    return "images/a.png: there is no label map .*labels/a.png"


def break_image_missing(root):
    (root / "images" / "a.png").unlink()
    return "labels/a.png: there is no image .*images/a of any type"


def break_size(root):
    write_labels(root, "a", np.zeros((10, 21)))
    return "images/a.png: it has 20 x 10 pixels, but its label map .*labels/a.png has 21 x 10"


def break_label_file(root):
    (root / "labels" / "a.png").write_bytes(b"nothing")
    return "images/a.png: its label map .*labels/a.png cannot be read"


def break_image_file(root):
    (root / "images" / "a.png").write_bytes(b"nothing")
    return "images/a.png: cannot be read"


BREAK_AT_LOAD = [
    break_labels_missing,
    break_image_missing,
    break_size,
    break_label_file,
    break_image_file,
]


@pytest.mark.parametrize("break_it", BREAK_AT_LOAD)
@pytest.mark.parametrize(
    "build", [build_train_loader, lambda cfg: build_test_loader(cfg, cfg.DATASETS.TEST[0])]
)
def test_what_the_headers_show_is_found_when_the_data_is_loaded(folders, cfg, break_it, build):
    (folders / "classes.txt").write_text("x\ny\nz\n")
    message = break_it(folders)
    name = register(cfg, entry(folders))
    with pytest.raises(DataError, match=f"{message}[^$]*SKIP_INVALID True"):
        build(cfg)
    cfg.DATASETS.SKIP_INVALID = True
    assert build(cfg) is not None
    left = build_test_loader(cfg, name)
    assert [x[0]["image_id"] for x in left] == ["b", "sub/c"]


def break_value(root):
    write_labels(root, "a", np.full(SIZE, 3))
    return "a.png: its label map .*labels/a.png holds the values 3, but there are 3 classes, 0 to 2"


def break_colours(root):
    write_labels(root, "a", np.zeros(SIZE), mode="RGB")
    return "a.png: .*labels/a.png has channels RGB"


def break_pixels(root):
    path = root / "labels" / "a.png"
    Image.fromarray(np.random.randint(0, 2, SIZE, dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return "a.png: .*truncated|a.png: "


@pytest.mark.parametrize("break_it", [break_value, break_colours, break_pixels])
def test_what_the_pixels_show_is_found_when_they_are_read(folders, cfg, break_it):
    (folders / "classes.txt").write_text("x\ny\nz\n")
    message = break_it(folders)
    name = register(cfg, entry(folders))
    record = DatasetCatalog.get(name)[0]
    with pytest.raises(DataError, match=f"Unusable image .*{message}"):
        SemSegDatasetMapper(cfg, is_train=True)(record)
    cfg.DATASETS.SKIP_INVALID = True
    assert SemSegDatasetMapper(cfg, is_train=True)(record) is None
    batches = iter(build_train_loader(cfg))
    assert {x["image_id"] for _ in range(6) for x in next(batches)} == {"b", "sub/c"}
    assert [x[0]["image_id"] for x in build_test_loader(cfg, name)] == ["b", "sub/c"]


def test_more_classes_than_a_label_map_has_are_refused(folders, cfg):
    (folders / "classes.txt").write_text("\n".join(f"c{i}" for i in range(256)))
    with pytest.raises(DataError, match=r"classes\.txt: has 256 classes"):
        register(cfg, entry(folders))
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 256
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 256"):
        SemSegDatasetMapper(cfg, is_train=True)


def test_a_broken_label_map_is_named_when_classes_are_looked_for(folders, cfg):
    (folders / "labels" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"labels/a\.png cannot be read"):
        register(cfg, entry(folders))


# ---- the mapper


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_label_maps_of_all_kinds_are_read_as_numbers(folders, mode):
    labels = np.random.randint(0, 3, SIZE)
    np.testing.assert_array_equal(read_label_map(write_labels(folders, "a", labels, mode)), labels)


def test_labels_follow_the_image(folders, cfg):
    """Each pixel's label can be told from its colour before and after."""
    labels = np.random.default_rng(1).integers(0, 3, (5, 5)).repeat(8, 0).repeat(8, 1)
    write_labels(folders, "a", labels, mode="P")
    pixels = np.stack([100 * labels] * 3, axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(folders / "images" / "a.png")
    cfg.INPUT.MIN_SIZE_TRAIN = (60, 80, 100)
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute", [48, 64]
    (folders / "classes.txt").write_text("x\ny\nz\n")
    name = register(cfg, entry(folders))
    mapper, seen = SemSegDatasetMapper(cfg, is_train=True), set()
    for _ in range(12):
        sample = mapper(DatasetCatalog.get(name)[0])
        assert sample["image"].shape == (3, 48, min(64, sample["image"].shape[2]))
        assert sample["image"].dtype == torch.uint8 and sample["sem_seg"].dtype == torch.int64
        assert sample["sem_seg"].shape == sample["image"].shape[1:]
        from_colour = (sample["image"][0].float() / 100).round()
        agreeing = (from_colour == sample["sem_seg"]).float().mean()
        assert agreeing > 0.85  # edges are interpolated in the image
        seen.add(sample["sem_seg"].numpy().tobytes())
    assert len(seen) > 6


def test_augmentations_are_detectron2s_with_the_crop_after_the_resize(cfg):
    cfg.INPUT.CROP.ENABLED = True
    kinds = [type(x) for x in build_sem_seg_augmentations(cfg, is_train=True)]
    assert kinds == [T.ResizeShortestEdge, T.RandomCrop, T.RandomFlip]
    assert [type(x) for x in build_sem_seg_augmentations(cfg, False)] == [T.ResizeShortestEdge]


def test_evaluation_needs_no_label_maps_and_keeps_the_size(folders, cfg):
    cfg.INPUT.MIN_SIZE_TEST = 15
    name = register(cfg, entry(folders))
    samples = [x[0] for x in build_test_loader(cfg, name)]
    assert len(samples) == 3
    for sample in samples:
        assert "sem_seg" not in sample and sample["image"].shape == (3, 15, 30)
        assert (sample["height"], sample["width"]) == SIZE


def test_evaluator_of_an_entry(folders, cfg):
    name = register(cfg, entry(folders))
    evaluator = build_evaluator(cfg, name, str(folders / "out"))
    evaluator.reset()
    for inputs in build_test_loader(cfg, name):
        labels = torch.as_tensor(read_label_map(inputs[0]["sem_seg_file_name"]).astype(np.int64))
        perfect = torch.nn.functional.one_hot(labels.clamp(max=2), 3).permute(2, 0, 1)
        evaluator.process(inputs, [{"sem_seg": perfect}])
    metrics = evaluator.evaluate()["sem_seg"]
    assert metrics["mIoU"] == metrics["pACC"] == metrics["IoU-class 2"] == 100


def test_the_synthetic_shapes_give_their_classes(cfg):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("shapes_sem_seg_val",)
    check_num_classes(cfg)
    assert MetadataCatalog.get("shapes_sem_seg_val").stuff_classes[0] == "background"

"""``yolo:`` entries, by hand."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from sparsercnn.data import DataError, leave_out_invalid, register_datasets
from sparsercnn.data.yolo import convert_yolo, label_file, read_yolo_yaml


@pytest.fixture
def root(tmp_path):
    """Two images of 20 x 10 in train, one, lying on its side in the file, in val."""
    root = tmp_path / "yolo"
    for split, names in {"train": ["a", "b"], "val": ["c"]}.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (20, 10)).save(root / "images" / split / f"{name}.jpg")
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.new("RGB", (10, 20)).save(root / "images/val/c.jpg", exif=sideways)
    (root / "labels/train/a.txt").write_text("1 0.5 0.5 0.5 0.2\n0 0.1 0.25 0.2 0.5\n")
    (root / "labels/val/c.txt").write_text("0 0.5 0.5 1 1\n")
    text = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
    (root / "data.yaml").write_text(text)
    return root


def test_entry(root):
    entry = f"yolo:{root}/data.yaml@train"
    register_datasets([entry, f"yolo:{root}/data.yaml@val"])
    assert MetadataCatalog.get(entry).thing_classes == ["cat", "dog"]
    first, second = DatasetCatalog.get(entry)
    assert Path(first["file_name"]) == root / "images/train/a.jpg"
    assert (first["width"], first["height"]) == (20, 10)
    assert [(x["category_id"], x["bbox"]) for x in first["annotations"]] == [
        (1, [5, 4, 10, 2]), (0, [0, 0, 4, 5]),
    ]  # fmt: skip
    assert second["annotations"] == []  # no label file
    (val,) = DatasetCatalog.get(f"yolo:{root}/data.yaml@val")
    assert (val["width"], val["height"]) == (20, 10) and val["annotations"][0]["bbox"][2:] == [
        20,
        10,
    ]


def test_invalid_boxes_are_reported_with_their_line(root):
    (root / "labels/train/a.txt").write_text("1 0.5 0.5 0.5 0.2\n0 0.1 0.25 0.2 0\n")
    entry = f"yolo:{root}/./data.yaml@train"
    register_datasets([entry])
    with pytest.raises(DataError, match=r"labels/train/a\.txt: annotation number 2 .* no size"):
        leave_out_invalid(DatasetCatalog.get(entry), entry)


def test_lists_of_images_and_old_paths(root):
    (root / "train.txt").write_text("images/train/b.jpg\n\nimages/train/a.jpg\n")
    (root / "data.yaml").write_text(
        "train: train.txt\nval: ../images/val\nnames: {1: dog, 0: cat}\nnc: 2\n"
    )
    names, splits = read_yolo_yaml(root / "data.yaml")
    assert names == ["cat", "dog"]
    assert [Path(x).name for x in splits["train"]] == ["b.jpg", "a.jpg"]
    assert len(splits["val"]) == 1
    content = convert_yolo(root / "data.yaml", "train")
    assert [x["file_name"] for x in content["images"]] == [
        "images/train/b.jpg",
        "images/train/a.jpg",
    ]


@pytest.mark.parametrize("listed", [False, True])
def test_linked_images_have_the_labels_by_the_link(root, listed):
    store = root.parent / "store"
    store.mkdir()
    (root / "images/train/a.jpg").rename(store / "17.jpg")  # a file
    (root / "images/train/a.jpg").symlink_to(store / "17.jpg")
    (root / "images/val").rename(store / "val")  # and a folder
    (root / "images/val").symlink_to(store / "val")
    if listed:
        for split, name in (("train", "a"), ("val", "c")):
            (root / f"{split}.txt").write_text(f"./images/{split}/{name}.jpg\n")
        text = "train: train.txt\nval: val.txt\nnames: [cat, dog]\n"
        (root / "data.yaml").write_text(text)
    content = convert_yolo(root / "data.yaml", "train")
    assert content["images"][0]["file_name"] == "images/train/a.jpg"
    assert len(content["annotations"]) == 2
    content = convert_yolo(root / "data.yaml", "val")
    assert [x["file_name"] for x in content["images"]] == ["images/val/c.jpg"]
    assert len(content["annotations"]) == 1


def test_linked_folders_below_a_folder_of_images_are_read(root):
    store = root.parent / "store"
    for folder in ("images", "labels"):
        (store / folder).mkdir(parents=True)
        (root / folder / "train/more").symlink_to(store / folder)
    (root / "images/train/a.jpg").rename(store / "images/c.jpg")
    (root / "labels/train/a.txt").rename(store / "labels/c.txt")
    (root / "images/train/._b.jpg").write_bytes(b"what macOS leaves beside b.jpg")
    (store / "images/up").symlink_to(root / "images/train")  # a loop
    content = convert_yolo(root / "data.yaml", "train")
    names = [x["file_name"] for x in content["images"]]
    assert names == ["images/train/b.jpg", "images/train/more/c.jpg"]
    assert len(content["annotations"]) == 2


def test_place_of_labels():
    assert label_file("/x/images/train/images/a.b.png") == "/x/images/train/labels/a.b.txt"
    assert label_file("/x/train/a.png") == "/x/train/a.txt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a]\n", "it gives no images"),
        ("train: images\n", "needs 'names'"),
        ("train: nowhere\nnames: [a]\n", "'nowhere' is missing: there is no "),
        ("train: labels\nnames: [a]\n", "has no images"),
        ("train: images/train\nnames: {0: a, 2: b}\n", "without gaps"),
        ("train: images/train\nnames: [a, a]\n", "each once"),
        ("a: [", "not valid YAML"),
        # A line of 12 points has 29 numbers, as many as one of a polygon of 14 corners.
        (
            "train: images/train\nnames: [a, b]\nkpt_shape: [12, 2]\n",
            "data.yaml: its labels have key points",
        ),
    ],
)
def test_a_description_that_cannot_be_used(root, text, message):
    (root / "data.yaml").write_text(text)
    with pytest.raises((DataError, FileNotFoundError), match=message):
        read_yolo_yaml(root / "data.yaml")


def test_only_the_split_that_is_asked_for_must_be_there(root):
    with open(root / "data.yaml", "a") as file:
        file.write("test: ../test/images\n")
    register_datasets([f"yolo:{root}/data.yaml@train"])
    assert set(read_yolo_yaml(root / "data.yaml", ("train", "val"))[1]) == {"train", "val"}
    for read in (read_yolo_yaml, lambda path: convert_yolo(path, "test")):
        with pytest.raises(FileNotFoundError, match=r"'\.\./test/images' is missing"):
            read(root / "data.yaml")


def test_a_list_of_images_in_another_encoding_is_named(root):
    (root / "train.txt").write_bytes("größe.jpg".encode("latin-1"))
    (root / "data.yaml").write_text("train: train.txt\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=r"train\.txt: not a text file in UTF-8"):
        read_yolo_yaml(root / "data.yaml")


def test_other_errors(root):
    with pytest.raises(DataError, match="no split 'test'; there are: train, val"):
        register_datasets([f"yolo:{root}/data.yaml@test"])
    with pytest.raises(DataError, match="must have the form yolo:ROOT/data.yaml@SPLIT"):
        register_datasets([f"yolo:{root}/data.yaml"])
    for name in ("train/a", "val/c"):
        (root / f"labels/{name}.txt").unlink()
    with pytest.raises(DataError, match=r"no image has a label file; the first would be .*a\.txt"):
        register_datasets([f"yolo:{root}/data.yaml@train"])

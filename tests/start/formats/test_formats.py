"""Every format gives the same boxes; what cannot be read is named."""

import json
import shutil

import pytest

from sparsercnn.cli import start
from sparsercnn.errors import DataError
from sparsercnn.start.formats import FORMATS, read_source
from sparsercnn.start.project import Options, make_project


def test_every_format_gives_the_same_content(data, simplify, expected):
    name, root = data
    source = read_source(root)
    splits = {key.rpartition("_")[2]: split for key, split in source.splits.items()}
    assert set(splits) == {"train", "val"}
    for key, split in splits.items():
        content = split.load()
        assert simplify(content) == expected(key)
        assert all((split_file(split, x)).is_file() for x in content["images"])
    # A single format was found; naming it changes nothing.
    again = read_source(root, name.split()[0])
    assert {k: v.load() for k, v in again.splits.items()} == {
        k: v.load() for k, v in source.splits.items()
    }


@pytest.mark.parametrize("name", ["voc files", "yolo files", "labelme"])
@pytest.mark.parametrize("place", ["inner/{}", "inner/{}/monday"])
def test_splits_are_found_at_any_depth(write_data, simplify, expected, name, place):
    root = write_data(name)
    for split in ("train", "val"):
        (root / split).rename(root / "moved")
        (root / place.format(split)).parent.mkdir(parents=True, exist_ok=True)
        (root / "moved").rename(root / place.format(split))
    splits = read_source(root).splits
    assert {key: simplify(x.load()) for key, x in splits.items()} == {
        key: expected(key) for key in ("train", "val")
    }


@pytest.mark.parametrize(
    ("name", "images", "labels"),
    [
        ("yolo files", "inner/{}/images", "inner/{}/labels"),
        ("labelme", "images/{}", "labels/{}"),
        ("voc files", "images/{}", "annotations/{}"),
    ],
)
def test_splits_of_images_and_annotations_apart(
    write_data, simplify, expected, name, images, labels
):
    root = write_data(name)
    for split in ("train", "val"):
        for path in sorted((root / split).iterdir()):
            place = root / (images if path.suffix == ".png" else labels).format(split)
            place.mkdir(parents=True, exist_ok=True)
            path.rename(place / path.name)
    splits = read_source(root).splits
    assert {key: simplify(x.load()) for key, x in splits.items()} == {
        key: expected(key) for key in ("train", "val")
    }


def test_folders_that_are_not_splits_stay_parts(write_data):
    root = write_data("labelme")
    for split, place in (("train", "street/left"), ("val", "park/left")):
        (root / place).parent.mkdir()
        (root / split).rename(root / place)
    assert set(read_source(root).splits) == {"street", "park"}


def test_other_tables_beside_the_data_do_not_matter(write_data):
    root = write_data("coco")
    (root / "notes.csv").write_bytes("größe,b\n1,2\n".encode("latin-1"))
    (root / "long.csv").write_text("x" * 200_000)  # longer than csv allows
    assert read_source(root).format == "COCO json"


def test_files_of_segments_beside_those_of_objects_do_not_matter(write_data):
    root = write_data("coco")
    content = json.loads((root / "annotations/instances_val.json").read_text())
    content["annotations"] = [{"image_id": 5, "file_name": "5.png", "segments_info": []}]
    (root / "annotations/panoptic_val.json").write_text(json.dumps(content))
    assert set(read_source(root).splits) == {"instances_train", "instances_val"}


def test_other_files_that_do_not_parse_do_not_matter(write_data):
    root = write_data("coco")
    (root / "settings.json").write_text('{"images": true, // "annotations": here\n}')
    (root / "scene.json").write_text('{"objects": [{"kind": "shapes"')
    (root / "deep.json").write_text("[" * 100_000)
    (root / "data.yaml").write_text("train: !Special {}\n")
    (root / "notes.yaml").write_bytes("größe: [1".encode("latin-1"))
    assert set(read_source(root).splits) == {"instances_train", "instances_val"}


@pytest.mark.parametrize("name", ["voc", "voc files"])
def test_other_xml_files_beside_annotations_do_not_matter(write_data, name):
    root = write_data(name)
    for folder in (root, root / "Annotations" if name == "voc" else root / "train"):
        (folder / "0.xml").write_text("<project><object/></project>")
    splits = read_source(root).splits
    assert sum(len(x.load()["images"]) for x in splits.values()) == 4


def test_an_empty_first_annotation_is_named(write_data):
    root = write_data("voc files")
    (root / "train/0.xml").write_text("")
    with pytest.raises(DataError, match=r"train/0\.xml: malformed XML"):
        read_source(root)


@pytest.mark.parametrize("folder", ["images", "."])
def test_numbered_images_are_those_of_the_split(write_data, folder):
    """Their names are the same in the folder of each split; in train there are more."""
    root = write_data("coco")
    for split in ("train", "val"):
        images = root / folder / split
        images.parent.mkdir(exist_ok=True)
        (root / split).rename(images)
        path = root / f"annotations/instances_{split}.json"
        text = path.read_text()
        for number, image in enumerate(sorted(images.iterdir())):
            text = text.replace(image.name, f"{number}.png")
            image.rename(images / f"{number}.png")
        path.write_text(text)
    shutil.copy(root / folder / "train/0.png", root / folder / "train/2.png")
    for name, split in read_source(root).splits.items():
        assert split.image_root == str((root / folder / name.rpartition("_")[2]).resolve())


def test_images_in_two_places_are_asked_for(write_data):
    root = write_data("coco")
    for split in ("train", "val"):
        shutil.copytree(root / split, root / f"small/{split}")
    with pytest.raises(DataError, match=r"may be those in .*small/train or .*/train\. .*--images"):
        read_source(root)


def test_tables_of_the_same_name_are_named_by_their_folders(write_data, simplify, expected):
    root = write_data("csv")
    for path in sorted(root.glob("*.csv")):
        split = path.stem
        (root / split).mkdir(exist_ok=True)
        path.rename(root / split / "_annotations.csv")
    splits = read_source(root).splits
    assert set(splits) == {"train/_annotations", "val/_annotations"}
    assert simplify(splits["val/_annotations"].load()) == expected("val")


@pytest.mark.parametrize("inner", ["images", "images/street"])
def test_labels_beside_images_in_a_folder_called_images(write_data, simplify, expected, inner):
    root = write_data("yolo files")
    for split in ("train", "val"):
        (root / inner).mkdir(parents=True, exist_ok=True)
        (root / split).rename(root / inner / split)
    splits = read_source(root).splits
    assert sum(len(x.load()["annotations"]) for x in splits.values()) == 4


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train.csv", "filename,class,xmin,ymin,xmax,ymax\n", "the table has no rows"),
        ("a.json", '{"shapes": null, "imagePath": "a.png"}', '"shapes" must be a list'),
    ],
)
def test_files_without_content_are_named(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=rf"{file}: {message}"):
        read_source(tmp_path)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-30])


def in_another_encoding(path):
    path.write_bytes(path.read_text().replace("dog", "größe").encode("cp1252"))


def in_utf_16(path):
    path.write_text(path.read_text(), encoding="utf-16")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, "malformed json"),
        (in_another_encoding, "Save it in UTF-8"),
        (in_utf_16, "Save it in UTF-8"),
    ],
)
@pytest.mark.parametrize(
    ("name", "file"), [("coco", "annotations/instances_val.json"), ("labelme", "val/c.json")]
)
def test_a_damaged_file_of_annotations_is_named(write_data, name, file, damage, message):
    root = write_data(name)
    damage(root / file)
    with pytest.raises(DataError, match=f"{file}.*{message}"):
        read_source(root)


@pytest.mark.parametrize("keys", [("images", "annotations"), ("annotations", "images")])
def test_of_a_file_cut_off_the_first_list_is_enough(write_data, keys):
    root = write_data("coco")
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: content[key] for key in keys}).split(f'"{keys[1]}"')[0])
    with pytest.raises(DataError, match=r"instances_train\.json, line 1.*malformed json"):
        read_source(root)


def test_shapes_after_a_large_picture_are_found(write_data, simplify, expected):
    root = write_data("labelme")
    path = root / "val/c.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "imageData": "A" * (1 << 20)}))
    assert simplify(read_source(root).splits["val"].load()) == expected("val")


def test_a_damaged_description_of_yolo_is_named(write_data):
    root = write_data("yolo")
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text.replace("path: .", r'path: "D:\data\cats"'))
    with pytest.raises(DataError, match=r"(?s)data\.yaml: not valid YAML.*twice: .*unknown escape"):
        read_source(root)
    (root / "data.yaml").write_bytes(text.replace("dog", "größe").encode("cp1252"))
    with pytest.raises(DataError, match=r"data\.yaml: not valid YAML.*save it in UTF-8"):
        read_source(root)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_of_boxes_in_another_encoding_is_named(write_data, encoding):
    root = write_data("csv")
    text = (root / "val.csv").read_text().replace("dog", "größe")
    (root / "val.csv").write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=r"val\.csv.*Save it in UTF-8"):
        read_source(root)


def test_a_field_of_a_table_that_never_ends_is_named(write_data):
    root = write_data("csv")
    with open(root / "val.csv", "a") as file:
        file.write('\n"' + "x" * 200_000)
    with pytest.raises(DataError, match=r"val\.csv: not a table: field larger"):
        read_source(root)


def test_a_category_called_shapes_is_one(write_data):
    root = write_data("coco")
    for path in (root / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"][0]["supercategory"] = "shapes"
        path.write_text(json.dumps(content))
    assert read_source(root).format == "COCO json"


def test_labels_of_yolo_may_begin_with_many_empty_images(write_data):
    root = write_data("yolo files")
    image = (root / "train/a.png").read_bytes()
    for i in range(25):
        (root / f"train/0{i:02}.png").write_bytes(image)
        (root / f"train/0{i:02}.txt").write_text("nan 1 1 1 1" if i % 2 else "")
    with pytest.raises(DataError, match=r"train/001\.txt, line 1: class nan"):
        read_source(root).splits["train"].load()


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_classes_of_yolo_that_nothing_names_are_numbers(write_data, number):
    root = write_data("yolo files")
    (root / "classes.txt").unlink()
    (root / "val/c.txt").write_text(f"{number} 0.5 0.5 0.1 0.1")
    with pytest.raises(DataError, match=r"c\.txt, line 1: not numbers"):
        read_source(root)


def test_lists_of_classes_that_differ_are_not_chosen_from(write_data, simplify, expected):
    root = write_data("yolo files")
    (root / "train/classes.txt").write_text("cat\n\ndog")
    assert simplify(read_source(root).splits["val"].load()) == expected("val")
    (root / "val/classes.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"data/classes\.txt and .*val/classes\.txt name different"):
        read_source(root)
    (root / "val/classes.txt").write_bytes("größe\ncat\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"val/classes\.txt: not a text file in UTF-8"):
        read_source(root)


def test_a_test_of_yolo_that_is_not_there_is_left_out(write_data, simplify, expected):
    root = write_data("yolo")
    with open(root / "data.yaml", "a") as file:
        file.write("test: ../test/images\n")
    source = read_source(root)
    assert {key: simplify(x.load()) for key, x in source.splits.items()} == {
        key: expected(key) for key in ("train", "val")
    }
    assert any("test is left out: " in x and "'../test/images' is" in x for x in source.notes)
    (root / "images/val").rename(root / "images/other")
    with pytest.raises(FileNotFoundError, match="'images/val' is missing"):
        read_source(root)


def split_file(split, image):
    from pathlib import Path

    return Path(split.image_root, image["file_name"])


def test_a_file_of_annotations_may_be_given_alone(write_data, simplify, expected):
    for name, file in (
        ("coco", "annotations/instances_val.json"),
        ("yolo", "data.yaml"),
        ("csv", "val.csv"),
    ):
        root = write_data(name, name)
        path = root / file
        images = str(root / "val") if name == "coco" else None
        splits = read_source(path, images=images).splits
        val = next(split for key, split in splits.items() if "val" in key)
        assert simplify(val.load()) == expected("val")


def test_nothing_is_guessed(write_data, tmp_path):
    root = write_data("voc")
    (root / "boxes.csv").write_text("image,label,x1,y1,x2,y2\na.png,cat,1,1,5,5\n")
    with pytest.raises(DataError, match=r"several formats: voc, such as .*; csv, .*--format"):
        read_source(root)
    assert read_source(root, "csv").format == "CSV of boxes"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no annotations were recognised"):
        read_source(tmp_path / "empty")
    with pytest.raises(DataError, match="no such file or folder"):
        read_source(tmp_path / "nowhere")
    assert set(FORMATS) == {"coco", "voc", "yolo", "labelme", "csv"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", r"c\.txt, line 1: has 4 numbers"),
        ("\n2 0.5 0.5 0.1 0.1", r"c\.txt, line 2: class 2 is not from 0 to 1"),
        ("nan 0.5 0.5 0.1 0.1", "line 1: class nan is not from 0 to 1"),
        ("inf 0.5 0.5 0.1 0.1", "line 1: class inf is not from 0 to 1"),
        ("1 20 10 5 5", "fractions of the image, from 0 to 1, not pixels"),
        ("cat 0.5 0.5 0.1 0.1", "line 1: not numbers: cat"),
    ],
)
def test_a_bad_line_of_yolo_is_named(write_data, line, message):
    root = write_data("yolo")
    (root / "labels/val/c.txt").write_text(line)
    with pytest.raises(DataError, match=message):
        read_source(root).splits["val"].load()


def test_polygons_of_yolo_give_their_box(write_data, simplify):
    root = write_data("yolo")
    (root / "labels/val/c.txt").write_text("1 0.25 0.5 0.5 0.5 0.5 1.0 0.3 0.7\n")
    assert simplify(read_source(root).splits["val"].load())["c.png"] == [("dog", (10, 10, 10, 10))]


def test_key_points_of_yolo_are_no_polygons(write_data, tmp_path, capsys):
    root = write_data("yolo")
    (root / "labels/val/c.txt").write_text("1 0.5 0.5 0.5 0.5" + " 0.6 0.7" * 12)
    with open(root / "data.yaml", "a") as file:
        file.write("kpt_shape: [12, 2]\n")
    assert start.main([str(root), "--output", str(tmp_path / "run")]) == 2
    assert "data.yaml: its labels have key points (kpt_shape)" in capsys.readouterr().err


def test_images_of_yolo_without_labels_are_empty_and_told(write_data, simplify):
    root = write_data("yolo")
    (root / "labels/val/d.txt").unlink()
    source = read_source(root)
    assert simplify(source.splits["val"].load())["d.png"] == []
    assert any("1 images of val have no label file" in note for note in source.notes)


def test_shapes_of_labelme(write_data, simplify):
    root = write_data("labelme")
    path = root / "val/c.json"
    content = json.loads(path.read_text())
    content["shapes"] = [
        {"label": "ball", "shape_type": "circle", "points": [[10, 10], [13, 14]]},
        {"label": "ball", "shape_type": "point", "points": [[3, 4]]},
    ]
    path.write_text(json.dumps(content))
    source = read_source(root)
    # The edge is 5 from the centre.
    assert simplify(source.splits["val"].load())["c.png"] == [("ball", (5, 5, 10, 10))]
    assert any("c.json number 2 (point)" in note for note in source.notes)
    content["shapes"][0]["points"] = [[1, "x"]]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"c\.json: shape number 1 needs"):
        read_source(root)


def test_masks_and_rotated_boxes_of_labelme_give_their_box(write_data, simplify):
    root = write_data("labelme")
    path = root / "val/c.json"
    content = json.loads(path.read_text())
    content["shapes"] = [
        # 3 x 2 pixels, of which the last is (7, 11).
        {"label": "mask", "shape_type": "mask", "points": [[5, 10], [7, 11]], "mask": "iVBOR"},
        {
            "label": "turned",
            "shape_type": "rotation",
            "points": [[20, 5], [24, 9], [22, 11], [18, 7]],
            "direction": 0.785,
        },
    ]
    path.write_text(json.dumps(content))
    source = read_source(root)
    assert simplify(source.splits["val"].load())["c.png"] == [
        ("mask", (5, 10, 3, 2)),
        ("turned", (18, 5, 6, 6)),
    ]
    assert not source.notes


@pytest.mark.parametrize("name", ["csv", "csv without names"])
def test_a_table_of_fractions_becomes_pixels(write_data, simplify, expected, name):
    root = write_data(name)
    for path in root.glob("*.csv"):
        rows = [row.split(",") for row in path.read_text().splitlines()]
        for row in rows:
            box = slice(4, 8) if name == "csv" else slice(1, 5)
            if row[box.start].isdigit():
                sides = (40, 20, 40, 20)
                row[box] = [f"{int(x) / side}" for x, side in zip(row[box], sides, strict=True)]
        path.write_text("\n".join(map(",".join, rows)))
    source = read_source(root)
    found = {key: simplify(split.load()) for key, split in source.splits.items()}
    assert found == {key: expected(key) for key in ("train", "val")}
    assert all("boxes are fractions of the image" in note for note in source.notes)


def test_a_bad_row_of_a_table_is_named(write_data):
    root = write_data("csv")
    with open(root / "val.csv", "a") as file:
        file.write("\nc.png,40,20,dog,1,2,x,4\n")
    with pytest.raises(DataError, match=r"val\.csv, line 4: a box must be four numbers"):
        read_source(root)


def rename_images(path, prefix):
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["file_name"] = prefix + image["file_name"]
    path.write_text(json.dumps(content))


def test_images_of_coco_are_found_though_the_first_is_missing(write_data):
    root = write_data("coco")
    for split in ("train", "val"):
        (root / "images/default" / split).parent.mkdir(parents=True, exist_ok=True)
        (root / split).rename(root / "images/default" / split)
    (root / "images/default/train/a.png").unlink()
    assert {x.image_root for x in read_source(root).splits.values()} == {
        str(root / "images/default/train"),
        str(root / "images/default/val"),
    }


def test_absolute_names_of_images_of_coco(write_data):
    root = write_data("coco")
    rename_images(root / "annotations/instances_train.json", f"{root}/train/")
    split = read_source(root).splits["instances_train"]
    assert all(split_file(split, image).is_file() for image in split.load()["images"])


@pytest.mark.parametrize("is_given", [False, True])
def test_backslashes_in_names_of_images_of_coco(write_data, tmp_path, simplify, expected, is_given):
    root = write_data("coco")
    rename_images(root / "annotations/instances_train.json", "train\\")
    rename_images(root / "annotations/instances_val.json", "val/")
    source = read_source(root, images=str(root) if is_given else None)
    split = source.splits["instances_train"]
    assert split.entry is None and source.splits["instances_val"].entry
    assert simplify(split.load()) == expected("train")
    assert all(split_file(split, image).is_file() for image in split.load()["images"])
    (note,) = source.notes
    assert "instances_train.json: backslashes" in note
    assert make_project(Options(str(root), str(tmp_path / "run"))).figures.num_images == 2


def test_a_backslash_may_belong_to_the_name_of_an_image(write_data):
    root = write_data("coco")
    for name in ("a.png", "b.png"):
        (root / "train" / name).rename(root / "train" / f"1\\{name}")
    rename_images(root / "annotations/instances_train.json", "1\\")
    for images in (None, str(root / "train")):
        source = read_source(root, images=images)
        assert source.splits["instances_train"].entry and not source.notes


def test_a_table_may_name_images_without_their_ending(write_data, simplify, expected):
    root = write_data("csv")
    for path in root.glob("*.csv"):
        path.write_text(path.read_text().replace(".png", ""))
    splits = read_source(root).splits
    assert {key: simplify(x.load()) for key, x in splits.items()} == {
        key: expected(key) for key in ("train", "val")
    }
    (root / "more").mkdir()
    (root / "more/a.png").write_bytes((root / "images/a.png").read_bytes())
    with pytest.raises(DataError, match=r"'a' may be .*images/a\.png or .*more/a\.png"):
        read_source(root)
    text = (root / "train.csv").read_text().replace("\na,", "\nmore/a,")
    (root / "train.csv").write_text(text)
    names = [x["file_name"] for x in read_source(root).splits["train"].load()["images"]]
    assert names == ["more/a.png", "images/b.png"]


def test_images_of_one_name_in_two_folders_are_not_mixed_up(write_data):
    root = write_data("csv without names")
    (root / "more").mkdir()
    (root / "images/c.png").rename(root / "more/c.png")

    (root / "more/a.png").write_bytes((root / "images/a.png").read_bytes())
    text = (root / "train.csv").read_text()
    read_source(root)
    (root / "train.csv").write_text(text.replace("images/a.png", "a.png"))
    with pytest.raises(DataError, match=r"'a\.png' may be .*images/a\.png or .*more/a\.png"):
        read_source(root)

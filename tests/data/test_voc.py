import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from sparsercnn.data import DataError, leave_out_invalid, register_datasets, voc

BCCD = Path(__file__).resolve().parents[2].parent / "shared/data/BCCD"

LAUGHS = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""


def test_voc_entry_by_hand(write_voc):
    root = write_voc(
        {
            "train": {
                "b": [("dog", 3, 2, 7, 5, 0), ("cat", 1, 1, 20, 10, 1)],
                "a": [("dog", 16, 0, 22, 10, 0)],
            },
            "val": {"c": [("ant", 1, 1, 4, 4, 0)]},
        }
    )
    train, val = f"voc:{root}@train", f"voc:{root}@val"
    register_datasets([train, val])
    # The union over the splits, though neither split has all three.
    for entry in (train, val):
        assert MetadataCatalog.get(entry).thing_classes == ["ant", "cat", "dog"]
    records = DatasetCatalog.get(train)
    assert [Path(record["file_name"]).name for record in records] == ["b.jpg", "a.jpg"]
    dog, cat = records[0]["annotations"]
    # Pixels 3 to 7 and 2 to 5, counted from 1 and inclusive: 5 columns from the third,
    # 4 rows from the second.
    assert (dog["bbox"], dog["category_id"], dog["iscrowd"]) == ([2, 1, 5, 4], 2, 0)
    # All of the image; "difficult" is crowd.
    assert (cat["bbox"], cat["category_id"], cat["iscrowd"]) == ([0, 0, 20, 10], 1, 1)
    # One pixel too high and two too wide: clipped.
    assert records[1]["annotations"][0]["bbox"] == [15, 0, 5, 10]
    truth = json.loads(Path(MetadataCatalog.get(train).json_file).read_text())
    assert truth["categories"] == [
        {"id": 1, "name": "ant"},
        {"id": 2, "name": "cat"},
        {"id": 3, "name": "dog"},
    ]
    assert [(x["category_id"], x["area"]) for x in truth["annotations"]] == [
        (3, 20), (2, 200), (3, 50),
    ]  # fmt: skip


def test_voc_ground_truth_follows_the_annotations(write_voc, tmp_path):
    splits = {"train": {"a": [("dog", 3, 2, 7, 5, 0)]}}
    first = f"voc:{write_voc(splits)}@train"
    register_datasets([first])
    # The same place, other content: as if a later run found the data changed.
    path = tmp_path / "voc/Annotations/a.xml"
    path.write_text(path.read_text().replace("<xmax>7<", "<xmax>9<"))
    later = f"voc:{tmp_path}/./voc@train"
    register_datasets([later])
    assert MetadataCatalog.get(first).json_file != MetadataCatalog.get(later).json_file
    assert DatasetCatalog.get(later)[0]["annotations"][0]["bbox"] == [2, 1, 7, 4]


def test_voc_class_file_decides_and_unknown_names_are_reported(write_voc):
    splits = {"train": {"a": [("dog", 3, 2, 7, 5, 0), ("emu", 1, 1, 4, 4, 0)]}}
    entry = f"voc:{write_voc(splits, class_names=['dog', 'cat'])}@train"
    register_datasets([entry])
    assert MetadataCatalog.get(entry).thing_classes == ["dog", "cat"]
    records = DatasetCatalog.get(entry)
    with pytest.raises(DataError, match=r"a\.xml: annotation number 2 .*'emu' is not .*dog, cat"):
        leave_out_invalid(records, entry)
    records, num_left_out = leave_out_invalid(records, entry, skip_invalid=True)
    assert num_left_out == 1
    assert [x["category_id"] for x in records[0]["annotations"]] == [0]


def test_voc_without_sizes_takes_them_from_the_images(write_voc):
    splits = {"train": {"a": [("dog", 3, 2, 7, 5, 0)]}}
    entry = f"voc:{write_voc(splits, size=None)}@train"
    register_datasets([entry])
    record = DatasetCatalog.get(entry)[0]
    assert (record["width"], record["height"]) == (20, 10)


def test_voc_without_sizes_has_those_of_upright_images(write_voc):
    root = write_voc({"train": {"a": [("dog", 3, 2, 10, 15, 0)]}}, size=None)
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.new("RGB", (20, 10)).save(root / "JPEGImages/a.jpg", exif=sideways)
    entry = f"voc:{root}@train"
    register_datasets([entry])
    (record,) = DatasetCatalog.get(entry)
    assert (record["width"], record["height"]) == (10, 20)
    assert record["annotations"][0]["bbox"] == [2, 1, 8, 14]  # not clipped


def test_voc_images_may_be_png(write_voc):
    root = write_voc({"train": {"a": [("dog", 3, 2, 7, 5, 0)]}})
    Image.open(root / "JPEGImages/a.jpg").save(root / "JPEGImages/a.PNG")
    (root / "JPEGImages/a.jpg").unlink()
    register_datasets([f"voc:{root}@train"])
    (record,) = DatasetCatalog.get(f"voc:{root}@train")
    assert record["file_name"] == str(root / "JPEGImages/a.PNG")


@pytest.mark.parametrize("encoding", ["GB2312", "gbk", "Shift_JIS", "EUC-KR", "utf-16", "cp1252"])
def test_annotations_say_their_encoding(write_voc, encoding):
    name = "dog" if encoding in ("EUC-KR", "cp1252") else "犬"
    root = write_voc({"train": {"a": [(name, 3, 2, 7, 5, 0)]}})
    path = root / "Annotations/a.xml"
    text = path.read_text(encoding="utf-8")
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
    register_datasets([f"voc:{root}@train"])
    assert MetadataCatalog.get(f"voc:{root}@train").thing_classes == [name]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_doctype_is_refused(write_voc, encoding):
    root = write_voc({"train": {"a": [("dog", 3, 2, 7, 5, 0)]}})
    (root / "Annotations/a.xml").write_bytes(
        LAUGHS.replace('"1.0"', f'"1.0" encoding="{encoding}"').encode(encoding)
    )
    with pytest.raises(DataError, match=r"a\.xml: it has a DOCTYPE"):
        register_datasets([f"voc:{root}@train"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", r"malformed XML: .*line 1"),
        ('<?xml version="1.0" encoding="none"?><a/>', r"malformed XML: unknown encoding: none"),
        ('<?xml version="1.0" encoding="gbk"?><a>€', r"malformed XML: 'gbk' codec can't decode"),
        ("", r"malformed XML"),
        ("<a><object><name>dog</name></object></a>", r"object number 1 \(dog\) needs numbers"),
        (
            "<a><object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
            "</object></a>",
            r"object number 1 has no name",
        ),
        ("<a><size><width>x</width></size></a>", r"its size is given as x x 0"),
    ],
)
def test_malformed_voc_annotations_are_named(write_voc, text, message):
    splits = {"train": {"a": [("dog", 3, 2, 7, 5, 0)]}}
    root = write_voc(splits, class_names=["dog"])
    (root / "Annotations/a.xml").write_text(text)
    with pytest.raises(DataError, match=rf"a\.xml: {message}"):
        register_datasets([f"voc:{root}@train"])


def test_a_split_that_lists_an_image_twice_or_none(write_voc):
    root = write_voc({"train": {"a": [("dog", 3, 2, 7, 5, 0)]}})
    path = root / "ImageSets/Main/train.txt"
    path.write_text("a\na\n")
    with pytest.raises(DataError, match=r"train\.txt: a is listed more than once"):
        register_datasets([f"voc:{root}@train"])
    path.write_text("\n")
    with pytest.raises(DataError, match=r"train\.txt: the file is empty"):
        register_datasets([f"voc:{root}@train"])


def test_names_of_images_may_have_spaces_and_end_in_a_number(write_voc):
    box = ("dog", 3, 2, 7, 5, 0)
    names = ["Photo 1", "Photo 2", "of the day 0", "plain"]
    root = write_voc({"train": {name: [box] for name in names}})
    (root / "ImageSets/Main/dog_train.txt").write_text(
        "Photo 1 -1\nPhoto 2  1\nof the day 0\t0\nplain -1\n"
    )
    for split in ("train", "dog_train"):
        entry = f"voc:{root}@{split}"
        register_datasets([entry])
        assert [Path(x["file_name"]).stem for x in DatasetCatalog.get(entry)] == names


def test_an_annotation_is_parsed_once_for_all_lists(write_voc, monkeypatch):
    root = write_voc({"train": {name: [("dog", 3, 2, 7, 5, 0)] for name in "abc"}})
    for name in ("cat_train", "dog_train", "trainval"):
        (root / f"ImageSets/Main/{name}.txt").write_text("a -1\nb 1\nc -1\n")
    parsed, parse = [], voc._parse
    monkeypatch.setattr(voc, "_parse", lambda path: parsed.append(path) or parse(path))
    assert voc.voc_class_names(str(root), "train") == ["dog"]
    assert len(parsed) == 3


@pytest.mark.skipif(not BCCD.exists(), reason="BCCD is not on this machine")
def test_bccd():
    entries = {split: f"voc:{BCCD}@{split}" for split in ("train", "val", "trainval", "test")}
    register_datasets(entries.values())
    records = {split: DatasetCatalog.get(entry) for split, entry in entries.items()}
    assert {k: len(v) for k, v in records.items()} == {
        "train": 205, "val": 87, "trainval": 292, "test": 72,
    }  # fmt: skip
    for entry in entries.values():
        assert MetadataCatalog.get(entry).thing_classes == ["Platelets", "RBC", "WBC"]
    both = records["trainval"] + records["test"]
    classes = [x["category_id"] for record in both for x in record["annotations"]]
    assert np.bincount(classes).tolist() == [361, 4155, 372]
    # Two clicks that are no boxes.
    with pytest.raises(DataError, match=r"2 invalid annotations") as error:
        leave_out_invalid(records["trainval"], entries["trainval"])
    assert "BloodImage_00338.xml: annotation number 13" in str(error.value)
    assert "BloodImage_00343.xml: annotation number 4" in str(error.value)
    assert leave_out_invalid(records["test"], entries["test"])[1] == 0
    assert leave_out_invalid(records["trainval"], entries["trainval"], skip_invalid=True)[1] == 2


def test_a_bad_line_in_one_split_does_not_break_the_others(write_voc, caplog):
    root = write_voc(
        {
            "train": {"a": [("dog", 3, 2, 7, 5, 0)]},
            "val": {"b": [("cat", 1, 1, 4, 4, 0)]},
            "old": {"c": [("emu", 1, 1, 4, 4, 0)]},
        }
    )
    for split, names in {"val": "b\nnonesuch\n", "old": "c\nc\n", "empty": ""}.items():
        (root / f"ImageSets/Main/{split}.txt").write_text(names)
    register_datasets([f"voc:{root}@train"])
    # Of the split with one bad line, the good ones count.
    assert MetadataCatalog.get(f"voc:{root}@train").thing_classes == ["cat", "dog"]
    for problem in ("nonesuch.xml", "c is listed more than once", "the file is empty"):
        assert problem in caplog.text
    with pytest.raises(FileNotFoundError, match=r"nonesuch\.xml"):
        register_datasets([f"voc:{root}@val"])
    with pytest.raises(DataError, match="c is listed more than once"):
        register_datasets([f"voc:{root}@old"])

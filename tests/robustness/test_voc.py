"""Pascal VOC's layout: a table of what is wrong -> the line that says so."""

import os

import pytest
from PIL import Image

from sparsercnn.data import DataError, build_train_loader, register_datasets
from sparsercnn.errors import MissingFileError

XML = """<annotation><size><width>20</width><height>10</height></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


@pytest.fixture
def root(tmp_path):
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    (tmp_path / "voc/ImageSets/Main/train.txt").write_text("a\nb\n")
    for name in "ab":
        Image.new("RGB", (20, 10)).save(tmp_path / f"voc/JPEGImages/{name}.jpg")
        (tmp_path / f"voc/Annotations/{name}.xml").write_text(XML)
    return tmp_path / "voc"


def _replace(old, new):
    return lambda path: path.write_text(XML.replace(old, new))


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


CASES = {
    "missing": (os.remove, r"train\.txt names b, but .*/b\.xml does not exist\. Add the annot"),
    "no XML": (lambda path: path.write_text("hello"), r"b\.xml: malformed XML"),
    "empty": (lambda path: path.write_text(""), r"b\.xml: malformed XML"),
    "an entity": (
        lambda path: path.write_text(f'<!DOCTYPE a [<!ENTITY b "c">]>{XML}'),
        r"b\.xml: it has a DOCTYPE, which is refused",
    ),
    "a size that is infinite": (_replace("20<", "inf<"), r"b\.xml: its size is given as inf x 10"),
    "a size that is NaN": (_replace("20<", "nan<"), r"b\.xml: its size is given as nan x 10"),
    "a size that is text": (
        _replace("20<", "twenty<"),
        r"b\.xml: its size is given as twenty x 10",
    ),
    "a corner that is text": (
        _replace("9</xmax", "nine</xmax"),
        r"b\.xml: object number 1 \(cat\)",
    ),
    "a corner that is infinite": (
        _replace("9</xmax", "inf</xmax"),
        r"object number 1 \(cat\) needs numbers",
    ),
    "a corner that is missing": (
        _replace("<ymax>9</ymax>", ""),
        r"b\.xml: object number 1 \(cat\)",
    ),
    "difficult 2": (
        _replace("0</difficult", "2</difficult"),
        r"difficult must be 0 or 1; it is '2'",
    ),
    "difficult no": (_replace("0</difficult", "no</difficult"), r"difficult must be 0 or 1.*'no'"),
    "without a name": (_replace("<name>cat</name>", ""), r"b\.xml: object number 1 has no name"),
    "a pipe": (_pipe, r"b\.xml cannot be read: it is a pipe"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named(root, cfg, case):
    spoil, line = CASES[case]
    spoil(root / "Annotations/b.xml")
    cfg.DATASETS.TRAIN = (f"voc:{root}@train",)

    def run():
        register_datasets(cfg.DATASETS.TRAIN)
        build_train_loader(cfg)

    with pytest.raises(DataError, match=line):
        run()


def test_many_missing_files_are_counted(root):
    (root / "ImageSets/Main/train.txt").write_text("".join(f"gone{i}\n" for i in range(50)))
    with pytest.raises(
        MissingFileError, match=r"names gone0, .*gone4, and 45 more, but .*gone0\.xml"
    ):
        register_datasets([f"voc:{root}@train"])


@pytest.mark.parametrize("name", ["ImageSets/Main/train.txt", "classes.txt"])
def test_text_files_may_have_a_mark_but_not_be_in_utf_16(root, name):
    (root / "classes.txt").write_text("cat\n")
    text = (root / name).read_text()
    (root / name).write_text(text, encoding="utf-8-sig")
    register_datasets([f"voc:{root}@train"])
    (root / name).write_text(text, encoding="utf-16")
    with pytest.raises(DataError, match=rf"{name} is in UTF-16 or UTF-32\. Save it in UTF-8"):
        register_datasets([f"voc:{root}/.@train"])


def test_utf_16_in_xml_is_read_as_it_says(root):
    (root / "Annotations/b.xml").write_text(
        f'<?xml version="1.0" encoding="UTF-16"?>{XML}', encoding="utf-16"
    )
    register_datasets([f"voc:{root}@train"])


def test_postscript_that_gives_no_size_is_not_run(root, monkeypatch, cfg):
    def refuse(*arguments, **options):
        raise AssertionError("a program is started")

    monkeypatch.setattr("subprocess.Popen", refuse)
    (root / "Annotations/b.xml").write_text(XML.replace("20<", "0<"))
    (root / "JPEGImages/b.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 10\n")
    cfg.DATASETS.TRAIN = (f"voc:{root}@train",)
    register_datasets(cfg.DATASETS.TRAIN)
    with pytest.raises(DataError, match=r"b\.jpg: its size is given as 0 x 0"):
        build_train_loader(cfg)

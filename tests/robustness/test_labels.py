"""Label maps for semantic segmentation: a table of what is wrong -> the line that says so."""

import os
import re
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from sparsercnn.data import DataError, build_test_loader, build_train_loader, register_datasets
from sparsercnn.data.label_map import read_label_map

WIDTH, HEIGHT = 20, 10


def _labels(value=1, dtype=np.uint8, size=(HEIGHT, WIDTH)):
    labels = np.zeros(size, dtype)
    labels[:, :5] = value
    return Image.fromarray(labels)


def _save(image, form="PNG"):
    return lambda path: image.save(path, form)


LOSSLESS = r"in none of the formats that are read, BMP, GIF, PNG, PPM, TIFF\. Convert"
AT_START = {
    "another size": (_save(_labels(size=(10, 19))), r"its label map .* has 19 x 10"),
    "text": (lambda path: path.write_bytes(b"hello"), r"its label map .* cannot be read: "),
    "a pipe": (os.mkfifo, r"its label map .* cannot be read: it is a pipe, and only regular"),
    "a folder": (os.mkdir, r"there is no label map"),
}
WHEN_READ = {
    "colours": (_save(_labels().convert("RGB")), r"has channels RGB.*one channel of class numbers"),
    "with alpha": (_save(_labels().convert("LA")), r"has channels LA"),
    "fractions": (_save(_labels().convert("F"), "TIFF"), r"has channels F"),
    "JPEG": (_save(_labels(), "JPEG"), LOSSLESS),
    "a class too high": (_save(_labels(2)), r"holds the values 2, but there are 2 classes, 0 to 1"),
    "16 bits": (_save(_labels(300, np.uint16)), r"holds the values 300, but there are 2 classes"),
    "16 bits, modulo": (_save(_labels(257, np.uint16)), r"holds the values 257"),
    "65535": (_save(_labels(65535, np.uint16)), r"holds the values 65535"),
    "32 bits, negative": (_save(_labels(-1, np.int32), "TIFF"), r"holds the values -1"),
}
GOOD = {
    "8 bits": _save(_labels()),
    "16 bits": _save(_labels(1, np.uint16)),
    "32 bits": _save(_labels(1, np.int32), "TIFF"),
    "one bit": _save(_labels().point(lambda x: 255 * x).convert("1")),
    "a palette": _save(_labels().convert("P")),
}


@pytest.fixture
def spoil(cfg, tmp_path):
    def spoil(make):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir()
        (tmp_path / "labels/classes.txt").write_text("\ufeffwall\nfloor\n", encoding="utf-8")
        for name in ("1.png", "2.png"):
            Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
            _labels().save(tmp_path / "labels" / name)
        path = tmp_path / "labels/2.png"
        path.unlink()
        make(path)
        entry = f"semseg:{tmp_path}/images@{tmp_path}/labels"
        register_datasets([entry])
        cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = "SemanticSegmentor", 2
        cfg.INPUT.CROP.ENABLED = False
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (entry,)
        return cfg, entry, path

    return spoil


@pytest.mark.parametrize("case", {**AT_START, **WHEN_READ})
def test_an_unusable_label_map_is_named_or_left_out(spoil, case, tmp_path):
    make, line = {**AT_START, **WHEN_READ}[case]
    cfg, entry, path = spoil(make)
    with pytest.raises(DataError, match=rf"(?s){tmp_path}/images/2\.png: .*{line}") as error:
        list(islice(build_train_loader(cfg), 9))
    assert re.search(str(path), str(error.value)) and "SKIP_INVALID" in str(error.value)
    cfg.DATASETS.SKIP_INVALID = True
    found = [x["image_id"] for batch in islice(build_train_loader(cfg), 9) for x in batch]
    assert found == ["1"] * 9
    assert [x["image_id"] for batch in build_test_loader(cfg, entry) for x in batch] == ["1"]


@pytest.mark.parametrize("case", GOOD)
def test_a_good_one_is_read(spoil, case):
    cfg, _, path = spoil(GOOD[case])
    assert np.array_equal(read_label_map(path), np.asarray(_labels()))
    samples = [x for batch in islice(build_train_loader(cfg), 9) for x in batch]
    (labels,) = {tuple(x["sem_seg"][0].tolist()) for x in samples}
    assert labels == (1,) * 5 + (0,) * 15


def test_classes_in_utf_16_are_refused(spoil, tmp_path):
    spoil(_save(_labels()))
    (tmp_path / "labels/classes.txt").write_text("wall\nfloor\n", encoding="utf-16")
    (tmp_path / "link").symlink_to(tmp_path / "labels")
    with pytest.raises(DataError, match=r"classes\.txt is in UTF-16 or UTF-32\. Save it in UTF-8"):
        register_datasets([f"semseg:{tmp_path}/images@{tmp_path}/link"])

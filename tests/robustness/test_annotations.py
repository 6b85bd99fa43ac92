"""Annotation files: a table of what is wrong -> the line that says so."""

import copy
import itertools
import json
import os

import numpy as np
import pycocotools.mask
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from sparsercnn.cli.train import main
from sparsercnn.data import (
    DataError,
    build_test_loader,
    build_train_loader,
    check_test_sets,
    register_datasets,
)
from sparsercnn.data.coco_cache import open_coco
from sparsercnn.data.coco_schema import read_coco
from sparsercnn.errors import MissingFileError
from sparsercnn.evaluation import COCOEvaluator

EVERYWHERE = {"size": [10, 20], "counts": [0, 200]}


def _set(*keys):
    """A change of the annotations: the last of `keys` is the value."""
    *path, last, value = keys

    def change(content):
        for key in path:
            content = content[key]
        content[last] = value

    return change


def _annotation(key, value):
    return _set("annotations", 0, key, value)


def _raw(old, new):
    """A change of the text, for what the json module would not write."""

    def change(content):
        return json.dumps(content).replace(old, new, 1)

    return change


DIGITS = "9" * 5000
FORMAT = {
    # What is silently misread otherwise.
    "crowd as text": (
        _annotation("iscrowd", "0"),
        r'id 11 .*: "iscrowd" must be 0 or 1; it is \'0',
    ),
    "crowd as a word": (_annotation("iscrowd", "false"), r'"iscrowd" must be 0 or 1'),
    "crowd 2": (_annotation("iscrowd", 2), r'"iscrowd" must be 0 or 1; it is 2\.'),
    "crowd 0.5": (_annotation("iscrowd", 0.5), r'"iscrowd" must be 0 or 1; it is 0\.5\.'),
    "crowd null": (_annotation("iscrowd", None), r'"iscrowd" must be 0 or 1; it is None\.'),
    "crowd list": (_annotation("iscrowd", [0]), r'"iscrowd" must be 0 or 1; it is a list\.'),
    "unknown image": (_annotation("image_id", 9), r"id 11 of image id 9: there is no image .*add"),
    "image as text": (
        _annotation("image_id", "1"),
        r"id 11 of image id '1': its image_id is '1', but that of the image is 1\.",
    ),
    "image as a fraction": (_annotation("image_id", 1.5), r'\(id 11\): "image_id" cannot be 1\.5'),
    "two categories of one name": (
        _set("categories", 1, "name", "cat"),
        r"ids 3 and 7 have the same name, 'cat'\. Rename one, or merge them\.",
    ),
    "ids of two types": (
        lambda content: (
            content["images"][1].update(id="2"),
            content["annotations"][1].update(image_id="2"),
        ),
        r"ids of images must be all numbers or all text",
    ),
    "area as text": (_annotation("area", "20"), r'"area" must be a number of pixels.*it is \'20\''),
    "area negative": (_annotation("area", -1), r'"area" must be a number of pixels, at least 0'),
    "area NaN": (_annotation("area", float("nan")), r'"area" must be .* it is nan\.'),
    "area null": (_annotation("area", None), r'"area" must be .* it is None\.'),
    # Boxes.
    "box of two": (_annotation("bbox", [1, 2]), r"id 11 of image id 1: bbox must be four numbers"),
    "box of text": (_annotation("bbox", [1, 2, 3, "4"]), r"bbox must be four numbers"),
    "box of truths": (_annotation("bbox", [1, 2, 3, True]), r"bbox must be four numbers"),
    "box a number": (_annotation("bbox", 12.5), r'\(id 11\): "bbox" cannot be 12\.5'),
    "box of lists": (_annotation("bbox", [1, 2, 3, [4]]), r"bbox must be four numbers"),
    "box of null": (_annotation("bbox", [1, 2, 3, None]), r"bbox must be four numbers"),
    "box of 400 digits": (_annotation("bbox", [1, 2, 3, 10**400]), r"bbox must be four numbers"),
    # Numbers that calculations cannot take.
    "5,000 digits": (_raw("[2, 1, 5, 4]", f"[{DIGITS}, 1, 5, 4]"), r"more than \d+ digits"),
    "width of 5,000 digits": (_raw('"width": 20', f'"width": {DIGITS}'), r"more than \d+ digits"),
    "width of 400 digits": (_set("images", 0, "width", 10**400), r"image id 1: its width is 1000"),
    "width infinite": (_raw('"width": 20', '"width": 1e999'), r"image id 1: its width is inf"),
    "height NaN": (_raw('"height": 10', '"height": NaN'), r"image id 1: its height is nan"),
    # Segmentations of no form.
    "segmentation a number": (_annotation("segmentation", 5), r"id 11.*segmentation cannot be 5"),
    "segmentation text": (_annotation("segmentation", "abc"), r"segmentation cannot be 'abc'"),
    "segmentation truth": (_annotation("segmentation", True), r"segmentation cannot be True"),
    "polygon not in a list": (
        _annotation("segmentation", [2, 1, 7.5, 1, 7.5, 5]),
        r"its segmentation is a list of numbers; polygons are a list of such lists",
    ),
    "polygon of text": (_annotation("segmentation", ["abcdef"]), r"a list of polygons"),
    "polygon of texts": (_annotation("segmentation", [["1"] * 6]), r"a list of polygons"),
    "polygon of points": (
        _annotation("segmentation", [[[2, 1], [7, 1], [7, 5]]]),
        r"a list of polygons, each a list of numbers",
    ),
    "polygon of null": (_annotation("segmentation", [[None] * 6]), r"a list of polygons"),
    "polygon of truths": (_annotation("segmentation", [[True] * 6]), r"a list of polygons"),
    "polygon an object": (_annotation("segmentation", [{}]), r"a list of polygons"),
    "RLE without counts": (_annotation("segmentation", {"size": [10, 20]}), r'"counts" of its RLE'),
    "RLE without size": (_annotation("segmentation", {"counts": [200]}), r'"size" of its RLE'),
    "RLE of fractions": (
        _annotation("segmentation", {"size": [10, 20], "counts": [0.5, 199.5]}),
        r'"counts" of its RLE must be text or a list of whole numbers',
    ),
    "RLE of one size": (
        _annotation("segmentation", {"size": [10], "counts": [200]}),
        r'"size" of its RLE must be height and width; it is \[10\]',
    ),
    "RLE of counts null": (
        _annotation("segmentation", {"size": [10, 20], "counts": None}),
        r'"counts" of its RLE',
    ),
    "keypoints as text": (
        _annotation("keypoints", "abc"),
        r'"keypoints" must be a list of numbers',
    ),
    "keypoints of two": (
        _annotation("keypoints", [1, 2]),
        r'"keypoints" must be a list of numbers',
    ),
    "keypoints a number": (_annotation("keypoints", 1.5), r'"keypoints" must be a list'),
    "keypoints of 400 digits": (_annotation("keypoints", [10**400, 1, 2]), r'"keypoints" must'),
    "area of 400 digits": (_annotation("area", 10**400), r'"area" must be .* it is 1000'),
    "keypoints null in it": (_annotation("keypoints", [1, 2, None]), r'"keypoints" must be a list'),
}


@pytest.mark.parametrize("case", FORMAT)
@pytest.mark.parametrize("masks", [False, True])
def test_what_is_not_cocos_format_is_named_before_the_run(write, start, content, case, masks):
    change, line = FORMAT[case]
    text = change(content)
    cfg, _ = write(text if isinstance(text, str) else content)
    cfg.MODEL.MASK_ON = masks
    with pytest.raises(DataError, match=rf"set\.json: .*{line}") as error:
        start(cfg)
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


TEXTS = {
    "empty": (b"", r"set\.json: the file is empty"),
    "an object that is not closed": (
        b'{"images": [',
        r"set\.json, line 1, column 13: malformed js",
    ),
    "nested a million times": (b"[" * 10**6, r"malformed json: it is nested too deeply"),
    "UTF-16 with a mark": ("{}".encode("utf-16"), r"is in UTF-16 or UTF-32\. Save it in UTF-8"),
    "UTF-16": ("{}".encode("utf-16-le"), r"is in UTF-16 or UTF-32\. Save it in UTF-8"),
    "UTF-16, big end first": ("{}".encode("utf-16-be"), r"is in UTF-16 or UTF-32"),
    "UTF-32": ("{}".encode("utf-32"), r"is in UTF-16 or UTF-32"),
    "Latin-1": (
        '{"info": "Dürer"}'.encode("latin-1"),
        r"not a text file in UTF-8.*Save it in UTF-8",
    ),
    "a picture": (b"\x89PNG\r\n\x1a\n\xff", r"not a text file in UTF-8"),
    "zeros": (bytes(1000), r"is in UTF-16 or UTF-32"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_file_that_is_no_json_is_named(write, start, case):
    text, line = TEXTS[case]
    cfg, _ = write(text)
    with pytest.raises(DataError, match=line) as error:
        start(cfg)
    assert "set.json" in str(error.value)


def test_a_byte_order_mark_is_accepted_for_training_and_evaluation(write, start, content):
    content["annotations"][0]["category_name"] = "Dürer"
    cfg, entry = write(b"\xef\xbb\xbf" + json.dumps(content, ensure_ascii=False).encode())
    start(cfg)
    check_test_sets(cfg)
    next(iter(build_train_loader(cfg)))
    # pycocotools cannot read the mark: it gets a copy.
    assert set(COCOEvaluator(entry, distributed=False)._coco_api.anns) == {11, 12}


def test_detectron2s_sets_are_checked_in_the_same_way(write, content, request):
    content["annotations"][0]["iscrowd"] = "0"
    cfg, entry = write(content)
    path, _, images = entry[len("coco:") :].partition("@")
    name = request.node.name
    register_coco_instances(name, {}, path, images)
    cfg.DATASETS.TRAIN = (name,)
    for keypoints in (False, True):
        cfg.MODEL.KEYPOINT_ON = keypoints
        with pytest.raises(DataError, match=r'set\.json: annotation id 11.*"iscrowd"'):
            build_train_loader(cfg)
    with open(path, "wb") as file:
        file.write(b"\xef\xbb\xbf" + json.dumps({**content, "annotations": []}).encode())
    with pytest.raises(DataError, match=r"byte-order mark.*Save it without"):
        check_test_sets(_with(cfg, TEST=(name,)))


def _with(cfg, **data_sets):
    for key, value in data_sets.items():
        cfg.DATASETS[key] = value
    return cfg


@pytest.mark.parametrize("no, yes", [(False, True), (0, 1), (0.0, 1.0)])
def test_what_is_no_crowd_is_trained_on(write, start, content, no, yes):
    content["annotations"][0]["iscrowd"] = no
    content["annotations"][1]["iscrowd"] = yes
    cfg, _ = write(content)
    start(cfg)
    batches = itertools.islice(build_train_loader(cfg), 8)
    counts = {x["image_id"]: len(x["instances"]) for batch in batches for x in batch}
    assert counts == {1: 1, 2: 0}


MASKS = {
    # What models with masks cannot take, and others do not look at.
    "two points": ([[1, 2, 3, 4]], "none of the polygons of its segmentation has three points"),
    "an odd number": ([[1, 2, 3, 4, 5, 6, 7]], "none of the polygons .* has three points"),
    "no point": ([[]], "none of the polygons of its segmentation has three points"),
    "infinite": ([[1, 2, 3, 4, 5, float("inf")]], "has a number that is not finite"),
    "NaN": ([[1, 2, 3, 4, 5, float("nan")]], "has a number that is not finite"),
    "400 digits": ([[1, 2, 3, 4, 5, 10**400]], "has a number that is not finite"),
    "far away": ([[0, 0, 1e9, 0, 1e9, 1e9]], "reaches farther than 1,000,000 pixels"),
    "far away, whole": ([[0, 0, 10**9, 0, 0, 1]], "reaches farther than 1,000,000 pixels"),
    "far on the left": ([[0, 0, -1e300, 0, 1, 1]], "reaches farther than 1,000,000 pixels"),
    "a long way": ([[0, 0, 9999, 9999] * 2000], "an outline of more than 10,000,000 pixels"),
    "counts beyond the image": (
        {"size": [10, 20], "counts": [0, 10**9]},
        "counts have the sum 1000000000, but the image has 20 x 10 pixels",
    ),
    "too few counts": ({"size": [10, 20], "counts": [100]}, "counts have the sum 100"),
    "negative counts": ({"size": [10, 20], "counts": [-5, 205]}, "it has negative counts"),
    "counts of 400 digits": ({"size": [10, 20], "counts": [10**400]}, "counts have the sum 1000"),
    "a huge size": (
        {"size": [10**6, 10**6], "counts": [10**12]},
        "its RLE has the size 1000000 x 1000000",
    ),
    "another size": (
        {"size": [1000, 1000], "counts": [10**6]},
        "its RLE is of an image of 1000 x 1000, not of 20 x 10",
    ),
    "height and width exchanged": (
        {"size": [20, 10], "counts": [200]},
        "its RLE is of an image of 10 x 20, not of 20 x 10",
    ),
    "a negative size": ({"size": [-10, -20], "counts": [200]}, "its RLE has the size -20 x -10"),
    "text that ends too early": ({"size": [10, 20], "counts": "0X"}, "its counts are not complete"),
    "text of other characters": ({"size": [10, 20], "counts": "ä~!"}, "counts are not complete"),
    "text of too much": ({"size": [10, 20], "counts": "0" + "o" * 12 + "0"}, "its RLE is damaged"),
    "no text": ({"size": [10, 20], "counts": ""}, "its counts have the sum 0"),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_that_cannot_be_drawn_is_named_or_left_out(write, start, content, case):
    segmentation, line = MASKS[case]
    content["annotations"][1]["segmentation"] = segmentation
    cfg, entry = write(content)
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    start(cfg)
    for build in (build_train_loader, check_test_sets):
        with pytest.raises(DataError, match=rf"set\.json: annotation id 12 of .*2\.png: .*{line}"):
            build(cfg)
    cfg.DATASETS.SKIP_INVALID = True
    batches = itertools.islice(build_train_loader(cfg), 8)
    assert {x["image_id"]: len(x["instances"]) for batch in batches for x in batch} == {1: 1, 2: 0}
    build_test_loader(cfg, entry)
    assert _ids_of_ground_truth(entry) == [11]
    # Registered by hand, which no file is behind.
    name = f"by hand, {entry}"
    records = DatasetCatalog.get(entry)
    DatasetCatalog.register(name, lambda: copy.deepcopy(records))
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog"])
    cfg.DATASETS.SKIP_INVALID = False
    with pytest.raises(DataError, match=rf"by hand.*: annotation id 12 of .*{line}"):
        build_train_loader(_with(cfg, TRAIN=(name,)))


@pytest.mark.parametrize("case", MASKS)
def test_without_masks_the_box_is_trained_on_and_evaluated(write, start, content, case):
    content["annotations"][1]["segmentation"] = MASKS[case][0]
    cfg, entry = write(content)
    start(cfg)
    batches = list(itertools.islice(build_train_loader(cfg), 8))
    boxes = {x["image_id"]: x["instances"].gt_boxes.tensor.tolist() for b in batches for x in b}
    assert boxes == {1: [[2, 1, 7, 5]], 2: [[0.5, 0, 8.5, 6]]}
    build_test_loader(cfg, entry)
    assert _ids_of_ground_truth(entry) == [11, 12]


def _ids_of_ground_truth(entry):
    with open(MetadataCatalog.get(entry).json_file) as file:
        return [x["id"] for x in json.load(file)["annotations"]]


def test_masks_of_every_good_form_are_drawn(write, start, content):
    pixels = np.zeros((10, 20), np.uint8, order="F")
    pixels[1:5, 2:8] = 1
    rle = pycocotools.mask.encode(pixels)
    forms = {
        "compressed": {"size": [10, 20], "counts": rle["counts"].decode()},
        "counts": {"size": [10, 20], "counts": [21, *([4, 6] * 5), 4, 200 - 21 - 60 + 6]},
        "polygon and two points": [[1, 2, 3, 4], [2, 1, 8, 1, 8, 5, 2, 5]],
        "written with an exponent": [[2e0, 1, 8, 1, 8.0, 5, 2, 5]],
        "many points": [[x for i in range(600) for x in (2 + i / 100, 1)] + [8, 5, 2, 5]],
    }
    image, annotation = content["images"][0], content["annotations"][0]
    numbers = range(1, len(forms) + 1)
    content["images"] = [{**image, "id": n} for n in numbers]
    content["annotations"] = [
        {**annotation, "id": n, "image_id": n, "segmentation": x}
        for n, x in zip(numbers, forms.values(), strict=True)
    ]
    cfg, entry = write(content)
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    start(cfg)
    for batch in itertools.islice(build_train_loader(cfg), 3 * len(forms)):
        for x in batch:
            drawn = x["instances"].gt_masks.tensor[0].numpy()
            assert np.array_equal(drawn, pixels), list(forms)[x["image_id"] - 1]
    evaluator = COCOEvaluator(entry, ("segm",), distributed=False)
    evaluator._prepare_masks()
    for x in evaluator._coco_api.anns.values():
        assert np.array_equal(evaluator._coco_api.annToMask(x), pixels), list(forms)[x["id"] - 1]


def test_evaluation_draws_no_mask_that_it_has_not_checked(write, start, content):
    cfg, entry = write(content)
    start(cfg)
    evaluator = COCOEvaluator(entry, ("segm",), distributed=False)
    evaluator._coco_api.anns[12]["segmentation"] = {"size": [10, 20], "counts": [0, 10**9]}
    evaluator._predictions = [{"instances": []}]
    with pytest.raises(DataError, match=r"annotation id 12: its RLE is damaged"):
        evaluator.evaluate()


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link to a pipe"])
def test_only_regular_files_are_opened(write, start, content, tmp_path, kind):
    cfg, _ = write(content)
    path = tmp_path / "set.json"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe") if "link" in kind else os.rename(tmp_path / "pipe", path)
    kind = kind.split()[-1]
    with pytest.raises(DataError, match=rf"set\.json cannot be read: it is a {kind}"):
        start(cfg)
    with pytest.raises(DataError, match=rf"set\.json cannot be read: it is a {kind}"):
        read_coco(str(path))


MISSING = {
    "coco:nowhere.json@images": r"The annotation file nowhere\.json does not exist\. Correct",
    "coco:TMP/set.json/x.json@i": r"The annotation file .*set\.json/x\.json does not exist",
    "coco:no\0where.json@images": r"cannot be read: embedded null byte",
    "voc:nowhere@train": r"nowhere/ImageSets/Main is missing: a voc: entry needs a folder with",
    "semseg:nowhere@neither": r"there is no folder nowhere and no folder neither",
    "coco_2017_val": r"The annotation file .*instances_val2017\.json does not exist",
    "CrowdHuman_val": r"val\.json is missing; run datasets/prepare_crowdhuman\.py",
}


@pytest.mark.parametrize("entry", MISSING)
def test_what_is_missing_is_named_with_the_remedy(write, start, content, tmp_path, entry, cfg):
    write(content)
    name = entry.replace("TMP", str(tmp_path))
    cfg.MODEL.SparseRCNN.NUM_CLASSES = {"coco_2017_val": 80, "CrowdHuman_val": 1}.get(entry, 2)

    def run():
        start(_with(cfg, TRAIN=(name,), TEST=(name,)))
        check_test_sets(cfg)

    with pytest.raises(DataError, match=MISSING[entry]) as error:
        run()
    if "\0" not in entry:
        assert isinstance(error.value, MissingFileError)
        assert isinstance(error.value, FileNotFoundError), "it can be caught as ever"


def test_the_program_ends_with_one_line(squares, capsys, monkeypatch):
    monkeypatch.chdir(squares)
    arguments = ["--num-gpus", "0", "--config-file", str(squares / "tiny.yaml")]
    assert main([*arguments, "DATASETS.TRAIN", "('coco:gone.json@images',)"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: The annotation file gone.json does not exist.")


def test_a_published_set_in_which_ids_occur_twice_is_left_to_detectron2(write, content, request):
    content["annotations"][1]["id"] = 11
    _, entry = write(content)
    path, _, images = entry[len("coco:") :].partition("@")
    minival = f"{os.path.dirname(path)}/instances_minival2014.json"
    os.rename(path, minival)
    register_coco_instances(request.node.name, {}, minival, images)
    with pytest.raises(DataError, match="repeats the id 11"):
        open_coco(minival)
    assert len(DatasetCatalog.get(request.node.name)) == 2


def test_a_large_file_is_refused_again_at_a_later_start(write, start, content, monkeypatch):
    """What is kept of large files does not hide what is wrong with them."""
    monkeypatch.setattr("sparsercnn.data.coco_cache._WORTH_KEEPING", 0)
    content["annotations"][1]["segmentation"] = EVERYWHERE | {"counts": [0, 10**9]}
    cfg, entry = write(content)
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    for _ in range(2):
        register_datasets([entry])
        with pytest.raises(DataError, match="annotation id 12 .*counts have the sum"):
            build_train_loader(cfg)
        open_coco.__globals__["_open"].cache_clear()


@pytest.mark.parametrize("box", ["[1e999, 1, 5, 4]", "[NaN, 1, NaN, 4]"])
def test_boxes_that_are_not_finite_are_left_out_of_files_that_lack_areas_too(
    write, start, content, box
):
    for annotation in content["annotations"]:
        del annotation["area"]
    text = json.dumps(content).replace("[2, 1, 5, 4]", box)
    cfg, entry = write(text)
    start(cfg)
    with pytest.raises(DataError, match=r"annotation id 11 .* box .* is not finite"):
        build_test_loader(cfg, entry)
    cfg.DATASETS.SKIP_INVALID = True
    build_test_loader(cfg, entry)
    assert _ids_of_ground_truth(entry) == [12]

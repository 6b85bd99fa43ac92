import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from sparsercnn.data import DataError, leave_out_invalid, register_datasets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the file is empty"),
        ("  \n", r"the file is empty"),
        ('{\n"images": [}', r"line 2, column 12: malformed json"),
        ("[" * 200000, r"malformed json"),
        ("[1]", r"is a json object, not a list"),
        ("{}", r'"images" is missing or empty'),
        ('{"images": []}', r'"images" is missing or empty'),
    ],
)
def test_malformed_json_is_an_error_with_its_position(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"bad\.json.*{message}"):
        register_datasets([f"coco:{path}@{tmp_path}"])


def test_a_json_file_that_is_no_text(tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    with pytest.raises(DataError, match=r"bad\.json: not a text file in UTF-8"):
        register_datasets([f"coco:{path}@{tmp_path}"])


def _set(*keys):
    *path, last, value = keys

    def change(content):
        for key in path:
            content = content[key]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("categories", []), r'"categories" is missing or empty'),
        (_set("categories", 0, "id", 3), r"number 2 of categories repeats the id 3"),
        (_set("images", 1, "id", 1), r"number 2 of images repeats the id 1"),
        (_set("images", 1, "height", None), r'number 2 of images \(id 2\) has no "height"'),
        (_set("images", 1, "width", "20"), r'number 2 of images \(id 2\): "width" cannot be a st'),
        (_set("annotations", {}), r'"annotations" is an object, not a list'),
        (_set("annotations", 1, 5), r"number 2 of annotations is 5, not an object"),
        (_set("annotations", 1, "bbox", None), r'number 2 of annotations \(id 12\) has no "bbox"'),
        (_set("annotations", 1, "bbox", [1, 2]), r"annotation id 12 of image id 1: bbox must be"),
        (_set("annotations", 1, "bbox", [1, 2, 3, "4"]), r"annotation id 12 .* bbox must be four"),
        (_set("annotations", 1, "id", 11), r"number 2 of annotations repeats the id 11"),
        (_set("annotations", 1, "ignore", 1), r'annotation id 12 .* has "ignore"'),
    ],
)
def test_what_is_not_cocos_format_is_named(write_coco, coco_content, change, message):
    change(coco_content)
    with pytest.raises(DataError, match=rf"set\.json: .*{message}"):
        register_datasets([write_coco(coco_content)])


def test_what_evaluation_needs_is_added_outside_of_the_users_file(write_coco, coco_content):
    for annotation in coco_content["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    entry = write_coco(coco_content)
    register_datasets([entry])
    path = entry[len("coco:") :].split("@")[0]
    metadata = MetadataCatalog.get(entry)
    assert metadata.json_file != path
    assert json.loads(Path(path).read_text()) == coco_content
    completed = json.loads(Path(metadata.json_file).read_text())["annotations"]
    assert [(x["iscrowd"], x["area"]) for x in completed] == [(0, 20), (0, 48.0), (0, 200)]
    # An error still names the file that the user knows.
    records = DatasetCatalog.get(entry)
    records[0]["annotations"][0]["bbox"] = [2, 1, 0, 4]
    with pytest.raises(DataError, match=rf"{path}: annotation id 11"):
        leave_out_invalid(records, entry)

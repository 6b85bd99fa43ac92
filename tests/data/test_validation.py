import copy
import logging
import time

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from sparsercnn.data import DataError, leave_out_invalid, register_datasets
from sparsercnn.data.validation import box_problem


@pytest.fixture
def loaded(write_coco, coco_content):
    """A function from a change of the annotation file to (records, name)."""

    def load(change=lambda content: None):
        content = copy.deepcopy(coco_content)
        change(content)
        entry = write_coco(content)
        register_datasets([entry])
        return DatasetCatalog.get(entry), entry

    return load


def _box(*box):
    def change(content):
        content["annotations"][1]["bbox"] = list(box)

    return change


def _unknown_category(content):
    content["annotations"][1]["category_id"] = 5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_box(3, 3, 0, 4), r"box \(x 3, y 3, width 0, height 4\) has no size"),
        (_box(3, 3, 4, 0), r"has no size"),
        (_box(3, 3, -4, 5), r"has no size"),
        (_box(20, 3, 4, 4), r"is outside of the image of 20 x 10"),
        (_box(3, 10, 4, 4), r"is outside of the image"),
        (_box(-5, 3, 5, 4), r"is outside of the image"),
        (_box(3, -5, 5, 5), r"is outside of the image"),
        (_box(float("nan"), 3, 5, 5), r"is not finite"),
        (_box(1, 3, float("inf"), 5), r"is not finite"),
        (_unknown_category, r"category 5 is not a class of the data set: cat, dog"),
    ],
)
def test_an_invalid_annotation_is_named_or_left_out(loaded, caplog, change, problem):
    records, name = loaded(change)
    before = copy.deepcopy(records)
    pattern = rf"(?s)1 invalid annotations.*set\.json: annotation id 12 of .*1\.png: .*{problem}"
    with pytest.raises(DataError, match=pattern + r".*DATASETS\.SKIP_INVALID True"):
        leave_out_invalid(records, name)
    with caplog.at_level(logging.WARNING):
        valid, num_left_out = leave_out_invalid(records, name, skip_invalid=True)
    assert "left out 0 invalid images and 1 invalid annotations" in caplog.text
    assert "annotation id 12" in caplog.text
    assert num_left_out == 1
    assert [[x["id"] for x in record["annotations"]] for record in valid] == [[11], [13], []]
    assert repr(records) == repr(before), "the data set's own records stay as they are"


@pytest.mark.parametrize("box", [(-3, -3, 5, 5), (18, 8, 9, 9), (-5, -5, 40, 40), (0, 0, 20, 10)])
def test_a_box_partly_outside_is_valid_and_kept_as_it_is(loaded, box):
    records, name = loaded(_box(*box))
    valid, num_left_out = leave_out_invalid(records, name)
    assert num_left_out == 0
    assert valid[0]["annotations"][1]["bbox"] == list(box)


def test_a_missing_image_is_named_or_left_out(loaded, tmp_path):
    records, name = loaded()
    (tmp_path / "set/2.png").unlink()
    with pytest.raises(DataError, match=r"1 invalid images.*\n.*set/2\.png: the file is missing"):
        leave_out_invalid(records, name)
    valid, num_left_out = leave_out_invalid(records, name, skip_invalid=True)
    assert [record["image_id"] for record in valid] == [1, 3]
    assert num_left_out == 1


def test_an_image_folder_that_is_missing(loaded, tmp_path):
    records, name = loaded()
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="3 invalid images"):
        leave_out_invalid(records, name)


def test_an_image_without_a_size(loaded):
    records, name = loaded(lambda content: content["images"][2].update(width=0))
    with pytest.raises(DataError, match=r"3\.png: its size is given as 0 x 10"):
        leave_out_invalid(records, name)


def test_one_image_id_twice(loaded):
    records, name = loaded()
    records[2]["image_id"] = 1
    with pytest.raises(DataError, match=r"1\.png and .*3\.png have the same image id, 1"):
        leave_out_invalid(records, name, skip_invalid=True)


def test_an_image_id_that_json_does_not_know(loaded):
    records, name = loaded()
    records[1]["image_id"] = np.int64(2)
    with pytest.raises(DataError, match=r"2\.png is of type int64; .*with int\(\.\.\.\)"):
        leave_out_invalid(records, name, skip_invalid=True)


def test_masks_are_asked_for_when_needed(loaded):
    def change(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = [[2, 1, 7, 1, 7, 5]]
        del content["annotations"][1]["segmentation"]

    records, name = loaded(change)
    assert leave_out_invalid(records, name)[1] == 0
    with pytest.raises(DataError, match=r"annotation id 12 .*no segmentation.*MODEL\.MASK_ON"):
        leave_out_invalid(records, name, mask_format="bitmask")


def test_masks_by_run_length_need_their_format(loaded):
    def change(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = {"size": [10, 20], "counts": [12, 5, 183]}

    records, name = loaded(change)
    assert leave_out_invalid(records, name, mask_format="bitmask")[1] == 0
    with pytest.raises(DataError, match=r"annotation id 11 .*INPUT\.MASK_FORMAT bitmask"):
        leave_out_invalid(records, name, mask_format="polygon")
    for record in records:
        for annotation in record["annotations"]:
            annotation["iscrowd"] = 1
    assert leave_out_invalid(records, name, mask_format="polygon")[1] == 0


def test_many_problems_are_counted_and_a_few_shown(loaded):
    records, name = loaded()
    annotation = {**records[0]["annotations"][0], "bbox": [0, 0, 0, 0]}
    records[0]["annotations"] = [annotation] * 40
    with pytest.raises(DataError, match="40 invalid annotations") as error:
        leave_out_invalid(records, name)
    assert "\nand 35 more" in str(error.value)
    assert str(error.value).count("\n") < 10


def _register(name, tmp_path, annotation):
    """A data set registered by hand, with corner boxes and no file of annotations."""
    (tmp_path / "image.png").touch()
    record = {"file_name": str(tmp_path / "image.png"), "image_id": 0, "annotations": [annotation]}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(thing_classes=["cat"])
    return DatasetCatalog.get(name)


def test_data_sets_registered_by_hand_are_checked_too(tmp_path):
    annotation = {"bbox": [5, 5, 5, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    records = _register("by_hand", tmp_path, annotation)
    with pytest.raises(DataError, match=r"by_hand: annotation number 1 .*width 0, height 4\) has"):
        leave_out_invalid(records, "by_hand")
    annotation.update(bbox=[5, 5, 8, 9], category_id=1)
    with pytest.raises(DataError, match=r"category_id 1 is not from 0 to 0"):
        leave_out_invalid(records, "by_hand")


def test_flaws_of_the_published_coco_do_not_stop_a_run(tmp_path, caplog):
    annotation = {"bbox": [5, 5, 1, 0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    records = _register("coco_2017_train_like", tmp_path, annotation)
    with caplog.at_level(logging.WARNING):
        valid, num_left_out = leave_out_invalid(records, "coco_2017_train_like")
    assert (valid[0]["annotations"], num_left_out) == ([], 1)
    assert "has no size" in caplog.text
    (tmp_path / "image.png").unlink()
    with pytest.raises(DataError, match="the file is missing"):
        leave_out_invalid(records, "coco_2017_train_like")


def test_box_problem_of_an_unknown_size():
    assert box_problem([1000, 1000, 1, 1]) is None
    assert box_problem([-2, 0, 1, 1]) is not None


def test_checking_costs_little(tmp_path):
    """COCO has 118,000 images and 860,000 boxes; this is a fiftieth."""
    folder = tmp_path / "many"
    folder.mkdir()
    annotation = {"bbox": [1, 1, 5, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    records = []
    for i in range(2000):
        (folder / f"{i}.jpg").touch()
        records.append(
            {
                "file_name": str(folder / f"{i}.jpg"),
                "image_id": i,
                "width": 20,
                "height": 10,
                "annotations": [annotation] * 9,
            }
        )
    started = time.process_time()
    assert leave_out_invalid(records, "many")[1] == 0
    assert time.process_time() - started < 0.5

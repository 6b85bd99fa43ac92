import json

import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image

from sparsercnn.data.label_map import read_label_map
from sparsercnn.inference.class_names import ClassNames
from sparsercnn.inference.results import coco_results, save_label_map


def test_classes_come_back_and_have_colours(tmp_path):
    labels = torch.randint(0, 7, (9, 14))
    scores = torch.nn.functional.one_hot(labels, 7).permute(2, 0, 1).float()
    path = str(tmp_path / "maps" / "a.png")
    save_label_map({"sem_seg": scores}, path)
    np.testing.assert_array_equal(read_label_map(path), labels)
    with Image.open(path) as image:
        colours = {
            label: image.convert("RGB").getpixel((x, y)) for (y, x), label in np.ndenumerate(labels)
        }
    assert len(set(colours.values())) == 7


def test_detections_have_no_label_map(tmp_path):
    save_label_map({"instances": None}, str(tmp_path / "maps" / "a.png"))
    assert not (tmp_path / "maps").exists()


def test_results_are_in_cocos_format(detections):
    labels = ClassNames(["pin", "cog"], dataset_ids={0: 7, 1: 9})
    first, second = coco_results(detections, labels, 3, "x.png")
    assert first == {
        "image_id": 3,
        "file_name": "x.png",
        "category_id": 9,
        "category_name": "cog",
        "bbox": [5.0, 10.0, 20.0, 20.0],
        "score": 0.75,
    }
    assert second["category_id"] == 5 and second["category_name"] == "class 5"


def test_a_segmentation_is_one_result_per_class(tmp_path):
    label_map = torch.zeros(6, 8, dtype=torch.int64)
    label_map[2:5, 1:4] = 2
    scores = torch.nn.functional.one_hot(label_map, 3).permute(2, 0, 1).float()
    first, second = coco_results({"sem_seg": scores}, ClassNames(stuff=["sky"]), 1, None)
    assert (first["category_name"], second["category_name"]) == ("sky", "class 2")
    assert (first["category_id"], second["category_id"]) == (0, 2)
    np.testing.assert_array_equal(mask_util.decode(second["segmentation"]), label_map == 2)
    assert mask_util.area(first["segmentation"]) == 48 - 9
    assert json.loads(json.dumps(second)) == second and second["file_name"] is None

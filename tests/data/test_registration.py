from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from sparsercnn.data import DataError, register_datasets


def test_coco_entry(write_coco, coco_content):
    entry = write_coco(coco_content)
    register_datasets([entry, "shapes_train"])
    metadata = MetadataCatalog.get(entry)
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.evaluator_type == "coco"
    assert metadata.json_file == entry[len("coco:") :].split("@")[0]
    records = DatasetCatalog.get(entry)
    assert [len(record["annotations"]) for record in records] == [2, 1, 0]
    assert records[0]["file_name"] == f"{metadata.image_root}/1.png"
    assert (records[0]["width"], records[0]["height"]) == (20, 10)
    first, second = records[0]["annotations"]
    assert (first["bbox"], first["category_id"]) == ([2, 1, 5, 4], 0)
    assert (second["bbox"], second["category_id"]) == ([10.5, 2, 8, 6], 1)
    assert first["bbox_mode"] == BoxMode.XYWH_ABS
    register_datasets([entry])  # once more is no error


def test_coco_entry_whose_folder_has_an_at_sign(write_coco, coco_content):
    entry = write_coco(coco_content, name="my@set")
    register_datasets([entry])
    assert Path(DatasetCatalog.get(entry)[0]["file_name"]).exists()


@pytest.mark.parametrize(
    ("entry", "form"),
    [
        ("coco:a.json", "coco:ANNOTATIONS.json@IMAGE_DIR"),
        ("coco:a.json@", "coco:ANNOTATIONS.json@IMAGE_DIR"),
        ("voc:root", "voc:ROOT@SPLIT"),
        ("voc:@train", "voc:ROOT@SPLIT"),
    ],
)
def test_malformed_entries_say_the_form(entry, form):
    with pytest.raises(DataError, match=form):
        register_datasets([entry])


def test_missing_files_are_named(tmp_path, write_voc):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        register_datasets([f"coco:{tmp_path}/nothing.json@{tmp_path}"])
    with pytest.raises(FileNotFoundError, match=r"nowhere/ImageSets/Main is missing"):
        register_datasets([f"voc:{tmp_path}/nowhere@train"])
    root = write_voc({"train": {"a": [("cat", 1, 1, 5, 5, 0)]}})
    with pytest.raises(
        FileNotFoundError, match=r"Main/test\.txt is missing; existing splits: train"
    ):
        register_datasets([f"voc:{root}@test"])
    (root / "Annotations/a.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.xml"):
        register_datasets([f"voc:{root}@train"])

from detectron2.data import MetadataCatalog

from sparsercnn.data.classes import describe_dataset
from sparsercnn.engine.setup import load_config
from sparsercnn.inference.class_names import choose_class_names

DATASET_IDS = {11: 0, 22: 1, 33: 2}


def test_classes_are_named_by_the_data_set_or_else_by_the_checkpoint(files, monkeypatch):
    cfg = load_config(files)
    saved = {"thing_classes": ["mug", "spoon", "plate"]}
    assert choose_class_names(cfg, saved).thing(2) == "plate"
    assert choose_class_names(cfg, {}).thing(2) == "class 2"
    name = "test_demo_cutlery"
    MetadataCatalog.get(name).set(
        thing_classes=["cup", "fork", "dish"], thing_dataset_id_to_contiguous_id=DATASET_IDS
    )
    try:
        assert describe_dataset(name) == {
            "dataset": name,
            "thing_classes": ["cup", "fork", "dish"],
            "thing_dataset_id_to_contiguous_id": DATASET_IDS,
        }
        cfg = load_config(files, ["DATASETS.TEST", f"('{name}',)"])
        labels = choose_class_names(cfg, saved)
        assert labels.thing(2) == "dish" and labels.category_id(1) == 22
        # COCO's 80 names say nothing about three classes.
        cfg = load_config(files, ["DATASETS.TEST", "('coco_2017_val',)"])
        assert choose_class_names(cfg, saved).thing(2) == "plate"
    finally:
        MetadataCatalog.pop(name)


def test_other_names_in_the_checkpoint_are_told(files, caplog):
    name = "test_predictor_sem_seg"
    MetadataCatalog.get(name).set(stuff_classes=["road", "sky", "car"])
    opts = ["DATASETS.TEST", f"('{name}',)", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]
    opts += ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
    try:
        cfg = load_config(files, opts)
        assert choose_class_names(cfg, {"stuff_classes": ["a", "b", "c"]}).stuff[0] == "road"
    finally:
        MetadataCatalog.pop(name)
    assert "other names: ['a', 'b', 'c']" in caplog.text

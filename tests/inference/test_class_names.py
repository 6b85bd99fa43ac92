import pytest
from detectron2.data import MetadataCatalog

from sparsercnn.data.classes import describe_dataset
from sparsercnn.engine.setup import load_config
from sparsercnn.inference.class_names import choose_class_names

DATASET_IDS = {11: 0, 22: 1, 33: 2}


SAVED = {"thing_classes": ["mug", "spoon", "plate"]}


@pytest.fixture
def cutlery():
    """A data set of three classes."""
    name = "test_demo_cutlery"
    MetadataCatalog.get(name).set(
        thing_classes=["cup", "fork", "dish"], thing_dataset_id_to_contiguous_id=DATASET_IDS
    )
    yield name
    MetadataCatalog.pop(name)


def test_classes_are_named_by_the_checkpoint_or_else_by_the_data_set(files, cutlery):
    cfg = load_config(files)
    assert choose_class_names(cfg, SAVED).thing(2) == "plate"
    assert choose_class_names(cfg, {}).thing(2) == "class 2"
    assert describe_dataset(cutlery) == {
        "dataset": cutlery,
        "thing_classes": ["cup", "fork", "dish"],
        "thing_dataset_id_to_contiguous_id": DATASET_IDS,
    }
    cfg = load_config(files, ["DATASETS.TEST", f"('{cutlery}',)"])
    labels = choose_class_names(cfg, {})
    assert labels.thing(2) == "dish" and labels.category_id(1) == 22
    # The data on which the model is evaluated does not rename what it was trained on.
    assert choose_class_names(cfg, SAVED).thing(2) == "plate"


def test_names_of_another_number_of_classes_are_not_used(files, cutlery):
    # COCO's 80 names say nothing about three classes.
    cfg = load_config(files, ["DATASETS.TEST", "('coco_2017_val',)"])
    assert choose_class_names(cfg, SAVED).thing(2) == "plate"
    assert choose_class_names(cfg, {}).thing(2) == "class 2"
    cfg = load_config(files, ["DATASETS.TEST", f"('{cutlery}',)"])
    assert choose_class_names(cfg, {"thing_classes": ["one"]}).thing(2) == "dish"


def test_a_segmentation_is_named_by_its_stuff(files):
    opts = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
    saved = {**SAVED, "stuff_classes": ["a", "b", "c"]}
    names = choose_class_names(load_config(files, opts), saved)
    assert [names.stuff_name(i) for i in range(4)] == ["a", "b", "c", "class 3"]
    assert names.things == []  # it finds no objects

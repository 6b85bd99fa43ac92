import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from sparsercnn.data import check_num_classes, register_datasets


def test_both_numbers_the_names_and_the_key_are_said(cfg, write_coco, coco_content):
    entry = write_coco(coco_content)
    register_datasets([entry])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("shapes_train",), (entry,)
    cfg.MODEL.SparseRCNN.NUM_CLASSES = 3
    message = r"MODEL\.SparseRCNN\.NUM_CLASSES is 3, but coco:.* has 2 classes: cat, dog\. Set "
    with pytest.raises(ValueError, match=message + r"MODEL\.SparseRCNN\.NUM_CLASSES 2\."):
        check_num_classes(cfg)
    cfg.DATASETS.TRAIN = (entry,)
    cfg.MODEL.SparseRCNN.NUM_CLASSES = 2
    check_num_classes(cfg)


def test_long_lists_of_names_are_abbreviated(cfg):
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    message = r"is 2, but coco_2017_train has 80 classes: person, .*, and 75 more\. Set"
    with pytest.raises(ValueError, match=message):
        check_num_classes(cfg)
    cfg.MODEL.SparseRCNN.NUM_CLASSES = 80
    check_num_classes(cfg)  # and no file of COCO is there to be opened


def test_the_key_depends_on_the_model(cfg):
    cfg.DATASETS.TRAIN = ("shapes_train",)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(ValueError, match=r"Set MODEL\.ROI_HEADS\.NUM_CLASSES 3"):
        check_num_classes(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    check_num_classes(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.DATASETS.TRAIN = ("shapes_sem_seg_train",)
    with pytest.raises(ValueError, match=r"Set MODEL\.SEM_SEG_HEAD\.NUM_CLASSES 4"):
        check_num_classes(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    check_num_classes(cfg)


def test_training_and_testing_must_have_the_same_classes(cfg, write_coco, coco_content):
    one = write_coco(coco_content, name="one")
    coco_content["categories"] = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    other = write_coco(coco_content, name="other")
    register_datasets([one, other])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (one,), (other,)
    message = r"one.* and .*other.* differ in their classes: class 0 is 'cat' in one and 'dog'"
    with pytest.raises(ValueError, match=message):
        check_num_classes(cfg)


def test_classes_that_detectron2_reads_from_the_file(cfg, write_coco, coco_content):
    path, folder = write_coco(coco_content)[len("coco:") :].split("@")
    register_coco_instances("classes_in_the_file", {}, path, folder)
    cfg.DATASETS.TRAIN = ("classes_in_the_file",)
    cfg.MODEL.SparseRCNN.NUM_CLASSES = 5
    with pytest.raises(ValueError, match="is 5, but classes_in_the_file has 2 classes"):
        check_num_classes(cfg)


def test_unregistered_names_are_an_error_and_unnamed_classes_a_warning(cfg, caplog):
    cfg.DATASETS.TRAIN = ("my_data",)
    with pytest.raises(ValueError, match=r"'my_data' is not registered.*voc:ROOT@SPLIT"):
        check_num_classes(cfg)
    DatasetCatalog.register("without_classes", list)
    assert MetadataCatalog.get("without_classes").get("thing_classes") is None
    cfg.DATASETS.TRAIN = ("without_classes",)
    check_num_classes(cfg)
    assert "without_classes: its metadata has no thing_classes" in caplog.text

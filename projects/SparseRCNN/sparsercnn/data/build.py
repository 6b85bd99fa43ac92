"""Loaders for training and evaluation, with checked data."""

import logging

import numpy as np
from detectron2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch.utils.data import Subset

from ..errors import ConfigError, DataError
from .coco import ensure_json_file, read_coco, without_invalid
from .coco_records import as_dataset, coco_records
from .dataset_mapper import SparseRCNNDatasetMapper
from .files import cache_json
from .image_check import image_problem
from .label_map import record_problem
from .loading_processes import MappedSamples, NotedSamples, WatchedLoader
from .semseg_mapper import SemSegDatasetMapper
from .train_loader import TrainLoader
from .validation import leave_out_invalid

__all__ = ["build_test_loader", "build_train_loader", "check_test_sets", "count_train_images"]


def build_train_loader(cfg):
    """Build the loader of DATASETS.TRAIN.

    Args:
        cfg (CfgNode): the whole config. SEED determines the order of the images and their
            augmentation; if it is negative, a new seed is drawn for each run.

    Returns:
        TrainLoader: iterable[list[dict]], endless batches for this worker.

    Raises:
        DataError: the data is invalid, see :func:`sparsercnn.data.leave_out_invalid`, or no image
            is left to train on.
    """
    records = _train_records(cfg)
    if _have_objects(records):
        _print_histogram(records, cfg.DATASETS.TRAIN)
    dataset = as_dataset(records)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampler = _build_sampler(cfg, records, seed)
    mapper = _build_mapper(cfg, is_train=True)
    sampled = _sampled(dataset, sampler)
    if isinstance(mapper, SparseRCNNDatasetMapper):
        mapper.others = sampled
    if cfg.DATASETS.SKIP_INVALID:
        mapper = _ReplaceUnusable(mapper, sampled)
    return TrainLoader(
        dataset,
        mapper,
        sampler,
        seed=seed,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        is_wide=_are_wide(records),
        images_per_epoch=_images_per_epoch(cfg, records),
        timeout=cfg.DATALOADER.TIMEOUT,
        num_restarts=cfg.DATALOADER.RESTARTS,
    )


def count_train_images(cfg):
    """int: images of an epoch of :func:`build_train_loader`, whose arguments and errors it has."""
    return _images_per_epoch(cfg, _train_records(cfg))


def build_test_loader(cfg, name):
    """Build detectron2's loader for evaluation on one data set.

    With DATASETS.SKIP_INVALID, every image is decoded once beforehand, and invalid images and
    annotations are also removed from the evaluator's ground truth (`json_file` in the metadata).
    The evaluator must therefore be built after the loader.

    Args:
        cfg (CfgNode): the whole config.
        name (str): an entry of DATASETS.TEST.

    Returns:
        iterable[list[dict]]: each image once, distributed over all workers.

    Raises:
        DataError: see :func:`build_train_loader`.
    """
    proposals = None
    if cfg.MODEL.LOAD_PROPOSALS:
        proposals = [cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(name)]]
    records, num_left_out = _load(cfg, name, proposals, is_train=False)
    _require(records, "DATASETS.TEST", [name])
    # Without SKIP_INVALID, something is left out of published sets alone, whose boxes without size
    # disturb no evaluator; masks that cannot be drawn do.
    if cfg.DATASETS.SKIP_INVALID or (num_left_out and cfg.MODEL.MASK_ON):
        _match_ground_truth(name, records, num_left_out, cfg.MODEL.MASK_ON)
    if all("annotations" in record for record in records):
        _print_histogram(records, [name])
    num_workers = cfg.DATALOADER.NUM_WORKERS
    noted = NotedSamples(as_dataset(records), num_workers)
    samples = MappedSamples(noted, _build_mapper(cfg, is_train=False))
    loader = build_detection_test_loader(samples, mapper=None, num_workers=num_workers)
    return WatchedLoader(loader, noted, cfg.DATALOADER.TIMEOUT)


def check_test_sets(cfg):
    """Raise at the start the DataError that the first evaluation would raise."""
    for name in cfg.DATASETS.TEST:
        _require(_load(cfg, name, None, is_train=False)[0], "DATASETS.TEST", [name])


def _train_records(cfg):
    records = []
    for index, name in enumerate(cfg.DATASETS.TRAIN):
        files = cfg.DATASETS.PROPOSAL_FILES_TRAIN
        proposals = [files[index]] if cfg.MODEL.LOAD_PROPOSALS else None
        records += _load(cfg, name, proposals, is_train=True)[0]
    _require(records, "DATASETS.TRAIN", cfg.DATASETS.TRAIN)
    if _have_objects(records) and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
        remedy = " with objects; DATALOADER.FILTER_EMPTY_ANNOTATIONS False keeps empty images"
        _require(records, "DATASETS.TRAIN", cfg.DATASETS.TRAIN, remedy)
    return records


def _have_objects(records):
    return all("annotations" in record for record in records)


def _images_per_epoch(cfg, records):
    """Images that are repeated by RepeatFactorTrainingSampler count once."""
    if cfg.DATALOADER.SAMPLER_TRAIN == "RandomSubsetTrainingSampler":
        return int(len(records) * cfg.DATALOADER.RANDOM_SUBSET_RATIO)
    return len(records)


def _load(cfg, name, proposal_files, is_train):
    """Valid records of one data set, for :func:`as_dataset`, and how many images and annotations
    were left out.
    """
    with_keypoints = is_train and cfg.MODEL.KEYPOINT_ON
    skip_invalid = cfg.DATASETS.SKIP_INVALID
    mask_format = cfg.INPUT.MASK_FORMAT if is_train else "bitmask"  # evaluation reads both formats
    mask_format = mask_format if cfg.MODEL.MASK_ON else None
    coco = coco_records(name)  # checks the file in any case
    # Detectron2 looks through whole records for keypoints, and adds proposals to them.
    if coco is not None and not (with_keypoints or proposal_files):
        records = coco.outlines()
        suspects = {number: coco[number] for number in coco.suspects(mask_format)}
    else:
        keypoint_head = cfg.MODEL.ROI_KEYPOINT_HEAD
        suspects = None
        records = get_detection_dataset_dicts(
            [name],
            filter_empty=False,
            min_keypoints=keypoint_head.MIN_KEYPOINTS_PER_IMAGE if with_keypoints else 0,
            proposal_files=proposal_files,
            check_consistency=False,  # it would fail on records that are left out below
        )
    return leave_out_invalid(
        list(records),
        name,
        skip_invalid=skip_invalid,
        mask_format=mask_format,
        # A loader for evaluation cannot skip a broken image later.
        extra_check=_decoding_check(cfg, name) if skip_invalid and not is_train else None,
        suspects=suspects,
    )


def _decoding_check(cfg, name):
    if cfg.MODEL.META_ARCHITECTURE != "SemanticSegmentor":
        return image_problem
    ignore_label = MetadataCatalog.get(name).get(
        "ignore_label", cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    )

    def check(record):
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        return image_problem(record) or record_problem(record, num_classes, ignore_label)

    return check


def _require(records, key, names, what=""):
    if not records:
        raise DataError(f"{key}, {', '.join(names)}: no images are left{what}.")


def _are_wide(records):
    """For each record, whether it is wider than high; None if some do not have a size."""
    if any("width" not in record or "height" not in record for record in records):
        return None
    return np.array([record["width"] > record["height"] for record in records])


def _print_histogram(records, names):
    class_names = MetadataCatalog.get(names[0]).get("thing_classes")
    if class_names is not None:
        check_metadata_consistency("thing_classes", names)
        # As if of one image: detectron2 takes a while for each.
        annotations = [x for record in records for x in record["annotations"]]
        print_instances_class_histogram([{"annotations": annotations}], class_names)


def _build_sampler(cfg, records, seed):
    """Build detectron2's sampler of the configured name, with an order determined by the seed."""
    loader = cfg.DATALOADER
    if loader.SAMPLER_TRAIN == "TrainingSampler":
        return TrainingSampler(len(records), seed=seed)
    if loader.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, loader.REPEAT_THRESHOLD
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    if loader.SAMPLER_TRAIN == "RandomSubsetTrainingSampler":
        ratio = loader.RANDOM_SUBSET_RATIO
        return RandomSubsetTrainingSampler(len(records), ratio, seed_shuffle=seed, seed_subset=seed)
    raise ConfigError(
        f"DATALOADER.SAMPLER_TRAIN is '{loader.SAMPLER_TRAIN}'; it must be TrainingSampler, "
        "RepeatFactorTrainingSampler or RandomSubsetTrainingSampler."
    )


def _sampled(dataset, sampler):
    """The part of a data set that a sampler draws from."""
    if isinstance(sampler, RandomSubsetTrainingSampler):
        return Subset(dataset, sampler._indexes_subset.tolist())
    return dataset


def _build_mapper(cfg, is_train):
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        return SemSegDatasetMapper(cfg, is_train)
    return SparseRCNNDatasetMapper(cfg, is_train)


def _match_ground_truth(name, records, num_left_out, with_masks):
    """Restrict the evaluator's ground truth to these records."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") == "coco":
        ensure_json_file(name)
    from_json = metadata.get("evaluator_type") in ("coco", "crowdhuman", "lvis")
    if not from_json or metadata.get("json_file") is None:
        # Evaluators of segmentation read only the label maps of the images that they receive.
        if num_left_out and "sem_seg" not in metadata.get("evaluator_type", ""):
            logging.getLogger(__name__).warning(
                f"{name}: the evaluator reads its own ground truth, which still contains the "
                f"{num_left_out} images and annotations that were left out."
            )
        return
    full = metadata.get("full_json_file") or metadata.json_file
    wanted = full
    if num_left_out:
        image_ids = {record["image_id"] for record in records}
        content = read_coco(PathManager.get_local_path(full))
        wanted = cache_json("valid", without_invalid(content, image_ids, with_masks))
    if metadata.json_file != wanted:
        del metadata.json_file  # metadata does not allow assigning another value
        metadata.set(json_file=wanted, full_json_file=full)


class _ReplaceUnusable:
    """A mapper that replaces an unusable image by a random other one.

    Detectron2's own replacement fails on Python 3.11 and later.
    """

    _ATTEMPTS = 100

    def __init__(self, mapper, dataset):
        self.mapper = mapper
        self.dataset = dataset

    def __call__(self, record):
        for _ in range(self._ATTEMPTS):
            sample = self.mapper(record)
            if sample is not None:
                return sample
            record = self.dataset[np.random.randint(len(self.dataset))]
        raise DataError(
            f"{self._ATTEMPTS} images in a row were unusable; the log names them. Correct the data."
        )

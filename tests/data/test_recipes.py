"""Mosaic, copy-paste, mixup, large-scale jitter and albumentations: boxes stay on their objects."""

import itertools
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from PIL import Image, ImageDraw
from torchvision.ops import box_iou

from sparsercnn.data import (
    DataError,
    SemSegDatasetMapper,
    SparseRCNNDatasetMapper,
    build_train_loader,
    register_datasets,
)
from sparsercnn.data.coco_records import load_coco
from sparsercnn.data.mixing import CopyPaste, MixUp, Mosaic
from sparsercnn.data.recipes import build_mixes, build_slivers, check_recipes
from sparsercnn.data.slivers import LOST, Slivers, record_lost
from sparsercnn.engine.setup import load_config
from sparsercnn.errors import ConfigError

needs_albumentations = pytest.mark.skipif(
    find_spec("albumentations") is None, reason="albumentations is not installed"
)
SIDE = 240
# One colour for each class, on black; each class occurs in one image alone.
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]
BOXES = [(20, 30, 110, 150), (130, 90, 215, 200), (60, 10, 160, 100), (30, 120, 140, 220)]
BOXES += [(100, 20, 220, 120), (10, 90, 90, 215)]


@pytest.fixture
def drawn(tmp_path):
    """Three images of two objects each, with masks: entries of rectangles and of ellipses."""

    def write(kind):
        images, annotations = [], []
        for i in range(3):
            image = Image.new("RGB", (SIDE, SIDE))
            for k in (2 * i, 2 * i + 1):
                x0, y0, x1, y1 = BOXES[k]
                if kind == "rectangles":
                    ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), COLOURS[k])
                    outline = [x0, y0, x1, y0, x1, y1, x0, y1]
                else:
                    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
                    x = (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(turn)
                    y = (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(turn)
                    outline = np.stack([x, y], 1).ravel().tolist()
                    ImageDraw.Draw(image).polygon(outline, COLOURS[k])
                box = [x0, y0, x1 - x0, y1 - y0]
                annotations.append({"id": k + 1, "image_id": i, "category_id": k, "bbox": box})
                annotations[-1].update(area=box[2] * box[3], iscrowd=0, segmentation=[outline])
            image.save(tmp_path / f"{kind}{i}.png")
            images.append({"id": i, "file_name": f"{kind}{i}.png", "height": SIDE, "width": SIDE})
        categories = [{"id": k, "name": f"c{k}"} for k in range(6)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / f"{kind}.json").write_text(json.dumps(content))
        return f"coco:{tmp_path}/{kind}.json@{tmp_path}"

    return write


@pytest.fixture
def cfg(cfg):
    cfg.MODEL.SparseRCNN.NUM_CLASSES = 6
    cfg.INPUT.MIN_SIZE_TRAIN = (SIDE,)
    cfg.INPUT.FORMAT = "RGB"
    cfg.SEED = 3
    return cfg


def loader_of(cfg, entry):
    register_datasets([entry])
    cfg.DATASETS.TRAIN = (entry,)
    return build_train_loader(cfg)


def seen_box(image, colour, near):
    """Bounds (4,) of the pixels of a colour in and just around a box."""
    off = (image.int() - torch.tensor(colour)[:, None, None]).abs().amax(0) > 100
    x0, y0, x1, y1 = (int(v) for v in near.round())
    outside = torch.ones_like(off)
    outside[max(y0 - 5, 0) : y1 + 5, max(x0 - 5, 0) : x1 + 5] = False
    rows, columns = torch.nonzero(~(off | outside), as_tuple=True)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


ROTATED = [
    {"name": "RandomRotate90", "p": 1.0},
    {"name": "RandomCrop", "height": 200, "width": 180, "p": 1.0},
    {"name": "Affine", "translate_px": (-12, 12), "p": 1.0},
]
RECIPES = {
    "jitter": ["LSJ.ENABLED", True, "LSJ.SIZE", (SIDE, SIDE), "LSJ.SCALE", (0.6, 2.0)],
    "mosaic": ["MOSAIC.ENABLED", True, "MOSAIC.PROB", 1.0],
    "copy-paste": ["COPY_PASTE.ENABLED", True, "COPY_PASTE.PROB", 1.0],
    "all": [
        *("LSJ.ENABLED", True, "LSJ.SIZE", (SIDE, SIDE), "LSJ.SCALE", (0.8, 1.5)),
        *("MOSAIC.ENABLED", True, "COPY_PASTE.ENABLED", True),
    ],
    "albumentations": ["ALBUMENTATIONS", ROTATED],
}


@pytest.mark.parametrize("kind", ["rectangles", "ellipses"])
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(x, marks=needs_albumentations if x == "albumentations" else ()) for x in RECIPES],
)
def test_boxes_stay_on_their_objects(cfg, drawn, recipe, kind):
    options = RECIPES[recipe]
    for key, value in zip(options[::2], options[1::2], strict=True):
        cfg.merge_from_list([f"INPUT.{key}", value])
    cfg.INPUT.SLIVERS.MIN_SIDE, cfg.INPUT.SLIVERS.MIN_VISIBLE = 32.0, 0.2
    # Of a cut ellipse, the box of what is left follows from the mask alone.
    cfg.MODEL.MASK_ON = kind == "ellipses"
    cfg.INPUT.MASK_FORMAT = "polygon" if recipe == "jitter" else "bitmask"
    check_recipes(cfg)
    found = []
    for batch in itertools.islice(loader_of(cfg, drawn(kind)), 12):
        for sample in batch:
            classes = sample["instances"].gt_classes.tolist()
            for box, k in zip(sample["instances"].gt_boxes.tensor, classes, strict=True):
                if classes.count(k) == 1:
                    seen = seen_box(sample["image"], COLOURS[k], box)
                    found.append(box_iou(box[None], seen[None]).item())
    assert len(found) > 25
    assert min(found) >= 0.95 if kind == "rectangles" else np.quantile(found, 0.05) >= 0.95
    assert np.mean(found) >= 0.97


def test_masks_are_those_of_what_is_seen(cfg, drawn):
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.INPUT.MOSAIC.ENABLED = cfg.INPUT.COPY_PASTE.ENABLED = True
    for batch in itertools.islice(loader_of(cfg, drawn("ellipses")), 8):
        for sample in batch:
            instances = sample["instances"]
            classes = instances.gt_classes.tolist()
            for mask, k in zip(instances.gt_masks.tensor, classes, strict=True):
                if classes.count(k) == 1:
                    off = sample["image"].int() - torch.tensor(COLOURS[k])[:, None, None]
                    seen = off.abs().amax(0) <= 100
                    assert (mask & seen).sum() >= 0.93 * (mask | seen).sum()


def sample_of(size, boxes, value, masks=None):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.full((len(boxes),), value)
    instances.visible = torch.ones(len(boxes))
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    instances.gt_masks = BitMasks(masks)
    image[:, masks.any(0)] = value
    return {"image": image, "instances": instances}


def test_mixup_blends_what_overlaps_and_keeps_both_objects():
    ours = sample_of((40, 60), [(5, 5, 25, 25)], 200)
    theirs = sample_of((30, 80), [(10, 10, 30, 20), (50, 10, 70, 30), (65, 0, 80, 30)], 100)
    mixed = MixUp(prob=1.0, alpha=1e6)(ours, lambda: theirs)  # the shares are a half
    assert mixed["image"].shape == (3, 40, 60)
    instances, (vanished, slivers) = Slivers(2, 0.1).drop(mixed["instances"])
    assert (vanished, slivers) == (1, 0)  # the last is beyond column 60
    assert instances.gt_boxes.tensor.tolist() == [
        [5, 5, 25, 25],
        [10, 10, 30, 20],
        [50, 10, 60, 30],
    ]
    assert instances.gt_classes.tolist() == [200, 100, 100]
    pixels = mixed["image"][0]
    for (row, column), value in {(7, 7): 100, (15, 15): 150, (15, 28): 50, (35, 7): 0}.items():
        assert abs(int(pixels[row, column]) - value) <= 1
    assert ours["image"][0, 15, 15] == 200, "samples are not changed"


def test_what_pasted_objects_cover_is_taken_out_by_hand():
    ours = sample_of((40, 60), [(0, 0, 20, 10), (30, 0, 40, 10)], 200)
    theirs = sample_of((40, 60), [(10, 0, 50, 20)], 100)
    mixed = CopyPaste(prob=1.0, share=1.0)(ours, lambda: theirs)
    instances, (vanished, slivers) = Slivers(2, 0.1).drop(mixed["instances"])
    assert (vanished, slivers) == (1, 0)  # the second is covered wholly
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 10, 10], [10, 0, 50, 20]]
    assert instances.gt_masks.tensor.flatten(1).sum(1).tolist() == [100, 800]
    assert mixed["image"][0, 5, 5] == 200 and mixed["image"][0, 5, 15] == 100


def test_a_mosaic_has_its_pictures_around_the_point():
    ours = sample_of((40, 60), [(20, 10, 40, 30)], 200)
    theirs = sample_of((20, 30), [(0, 0, 30, 20)], 100)
    np.random.seed(0)
    mixed = Mosaic(prob=1.0, center=(0.5, 0.5), scale=(1.0, 1.0))(ours, lambda: theirs)
    image, instances = mixed["image"][0], mixed["instances"]
    corners = {(0, 0, 30, 20), (30, 0, 60, 20), (0, 20, 30, 40), (30, 20, 60, 40)}
    theirs = instances.gt_boxes.tensor[instances.gt_classes == 100].long()
    others = {tuple(x) for x in theirs.tolist()}
    assert len(others) == 3 and others < corners
    (x0, y0, x1, y1) = (corners - others).pop()
    assert set(image[y0:y1, x0:x1].unique().tolist()) <= {0, 200}
    assert all((image[b:d, a:c] == 100).all() for a, b, c, d in others)


def test_lost_objects_are_counted_in_the_event_storage():
    instances = sample_of((40, 60), [(0, 0, 20, 10), (0, 0, 1, 10), (5, 5, 9, 9)], 1)["instances"]
    instances.gt_boxes = Boxes(
        torch.cat([instances.gt_boxes.tensor, torch.tensor([[3.0, 3, 3, 9]])])[:3]
    )
    instances.visible = torch.tensor([1.0, 1.0, 0.05])
    left, lost = Slivers(min_side=2, min_visible=0.1).drop(instances)
    assert len(left) == 1 and lost == (0, 2) and not left.has("visible")
    record_lost([{LOST: (1, 2)}])  # outside of a training, nothing happens
    with EventStorage() as storage:
        record_lost([{"image": None}])
        assert not storage.latest()
        record_lost([{LOST: (1, 2)}, {LOST: (3, 0)}])
        assert {k: v for k, (v, _) in storage.latest().items()} == {
            "data/vanished": 4,
            "data/slivers": 2,
        }


def test_without_recipes_samples_have_nothing_new(cfg, drawn):
    mapper = SparseRCNNDatasetMapper(cfg)
    assert mapper.slivers is None and mapper.mixes == () and mapper.albumentations is None
    sample = next(iter(loader_of(cfg, drawn("rectangles"))))[0]
    assert LOST not in sample and set(sample["instances"].get_fields()) == {
        "gt_boxes",
        "gt_classes",
    }


def summary(loader, n):
    batches = itertools.islice(loader, n)
    return [[(x["image"].double().mean().item(), x[LOST]) for x in batch] for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_resumed_run_mixes_the_same_images(cfg, drawn, num_workers):
    cfg.DATALOADER.NUM_WORKERS = num_workers
    cfg.INPUT.MOSAIC.ENABLED = cfg.INPUT.COPY_PASTE.ENABLED = cfg.INPUT.MIXUP.ENABLED = True
    entry = drawn("rectangles")
    expected = summary(loader_of(cfg, entry), 5)
    assert len({mean for batch in expected for mean, _ in batch}) == 10
    later = loader_of(cfg, entry)
    later.start_at(3)
    assert summary(later, 2) == expected[3:]


def test_other_images_are_of_the_part_that_is_trained_on(cfg, drawn):
    cfg.INPUT.MOSAIC.ENABLED = True
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.34
    loader = loader_of(cfg, drawn("rectangles"))
    classes = set()
    for batch in itertools.islice(loader, 6):
        for sample in batch:
            classes |= set(sample["instances"].gt_classes.tolist())
    assert len(classes) <= 2, "one of three images"


def test_an_unusable_image_is_replaced_by_one_of_the_part_that_is_trained_on(cfg, drawn, tmp_path):
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.67
    cfg.DATASETS.SKIP_INVALID = True
    entry = drawn("rectangles")

    def seen():
        batches = itertools.islice(loader_of(cfg, entry), 6)
        return {sample["image_id"] for batch in batches for sample in batch}

    part = seen()
    assert len(part) == 2
    broken = min(part)
    (tmp_path / f"rectangles{broken}.png").write_bytes(b"no image")
    assert seen() == part - {broken}


@pytest.mark.parametrize(
    "recipe", ["COPY_PASTE", pytest.param("ALBUMENTATIONS", marks=needs_albumentations)]
)
def test_masks_that_cannot_be_drawn_are_left_out_of_models_without_masks(cfg, drawn, recipe):
    entry = drawn("rectangles")
    path = entry.removeprefix("coco:").partition("@")[0]
    with open(path) as file:
        content = json.load(file)
    rle = {"size": [7, 7], "counts": [49]}
    for annotation, segmentation in zip(
        content["annotations"], [[[9, 9, 40, 30]], rle] * 3, strict=True
    ):
        annotation["segmentation"] = segmentation
    with open(path, "w") as file:
        json.dump(content, file)
    if recipe == "COPY_PASTE":
        cfg.INPUT.COPY_PASTE.ENABLED, cfg.INPUT.COPY_PASTE.PROB = True, 1.0
    else:
        cfg.INPUT.ALBUMENTATIONS = [{"name": "HorizontalFlip", "p": 0.5}]
    cfg.DATASETS.SKIP_INVALID = True
    for batch in itertools.islice(loader_of(cfg, entry), 3):
        assert all(len(sample["instances"]) >= 2 for sample in batch)


def test_detectron2s_own_loader_takes_the_mapper(cfg, drawn):
    cfg.INPUT.MOSAIC.ENABLED, cfg.INPUT.MOSAIC.PROB = True, 1.0
    entry = drawn("rectangles")
    register_datasets([entry])
    path, _, folder = entry.removeprefix("coco:").partition("@")
    records = load_coco(entry, path, folder)
    mapper = SparseRCNNDatasetMapper(cfg)
    with pytest.raises(ConfigError, match="set the mapper's attribute `others`"):
        mapper(records[0])
    mapper.others = records
    loader = build_detection_train_loader(
        records, mapper=mapper, total_batch_size=2, num_workers=0, aspect_ratio_grouping=False
    )
    batch = next(iter(loader))
    assert all(len(sample["instances"]) >= 2 for sample in batch)


def test_a_broken_other_image_is_named_or_passed_over(cfg, drawn, tmp_path):
    cfg.INPUT.MIXUP.ENABLED, cfg.INPUT.MIXUP.PROB = True, 1.0
    entry = drawn("rectangles")
    register_datasets([entry])
    path, _, folder = entry.removeprefix("coco:").partition("@")
    good, broken, _ = load_coco(entry, path, folder)
    (tmp_path / "rectangles1.png").write_bytes(b"no image")
    mapper = SparseRCNNDatasetMapper(cfg)
    mapper.others = [broken]
    with pytest.raises(DataError, match=r"rectangles1\.png"):
        mapper(good)
    cfg.DATASETS.SKIP_INVALID = True
    mapper = SparseRCNNDatasetMapper(cfg)
    mapper.others = [broken, good]
    assert len(mapper(good)["instances"]) == 4


@pytest.mark.parametrize(
    "opts,message",
    [
        (["INPUT.MOSAIC.ENABLED", "True", "MODEL.KEYPOINT_ON", "True"], "KEYPOINT_ON"),
        (["INPUT.LSJ.SCALE", "(2.0, 0.5)", "INPUT.LSJ.ENABLED", "True"], "smaller number"),
        (["INPUT.MOSAIC.CENTER", "(0.5,)"], "INPUT.MOSAIC.CENTER"),
        (["INPUT.MIXUP.PROB", "1.5"], "INPUT.MIXUP.PROB is 1.5"),
        (["INPUT.ALBUMENTATIONS", "[{'limit': 10}]"], "a mapping with a name"),
        (["INPUT.ALBUMENTATIONS", "[{'name': 'Rotate'}]", "INPUT.FORMAT", "L"], "FORMAT"),
        (["INPUT.COPY_PASTE.ENABLED", "True", "MODEL.MASK_ON", "True"], "MASK_FORMAT bitmask"),
    ],
)
def test_recipes_that_do_not_go_together(opts, message):
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart/sparsercnn", opts, register=False)


def test_segmentors_have_no_objects_to_mix():
    with pytest.raises(ConfigError, match="SemanticSegmentor"):
        load_config("quickstart/danet", ["INPUT.MIXUP.ENABLED", "True"], register=False)
    load_config("quickstart/danet", ["INPUT.LSJ.ENABLED", "True"], register=False)


@needs_albumentations
@pytest.mark.parametrize(
    "transform,message",
    [
        ({"name": "Rotat"}, r"no transform Rotat\. Did you mean .*Rotate"),
        ({"name": "Rotate", "limits": 3}, r"no argument limits; it has .*interpolation"),
        ({"name": "Affine", "scale": "x"}, "INPUT.ALBUMENTATIONS: Affine"),
        ({"name": "OneOf", "transforms": [{"name": "Nope"}]}, "no transform Nope"),
        ({"name": "Normalize"}, "must stay uint8"),
    ],
)
def test_wrong_transforms_are_named(cfg, transform, message):
    from sparsercnn.data.albumentation import Albumentations

    with pytest.raises(ConfigError, match=message):
        Albumentations([transform], "RGB").on_objects(np.zeros((20, 20, 3), np.uint8), [])


@needs_albumentations
def test_transforms_get_rgb_and_follow_the_seed():
    from sparsercnn.data.albumentation import Albumentations

    image = np.full((8, 8, 3), 100, np.uint8)
    sepia = {"name": "ToSepia", "p": 1.0}  # more red than green, and more green than blue
    rgb, bgr = (Albumentations([sepia], x).on_objects(image, [])[0] for x in ("RGB", "BGR"))
    assert (rgb[..., 0] > rgb[..., 1]).all() and (rgb[..., 1] > rgb[..., 2]).all()
    assert (rgb == bgr[..., ::-1]).all()
    noise = Albumentations([{"name": "GaussNoise", "p": 1.0}], "RGB")
    drawn = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        drawn.append(noise.on_objects(image, [])[0])
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()


@needs_albumentations
def test_objects_that_transforms_push_out_are_counted(cfg, drawn):
    cfg.INPUT.ALBUMENTATIONS = [
        {"name": "Crop", "x_min": 0, "y_min": 0, "x_max": 120, "y_max": 240, "p": 1.0}
    ]
    cfg.INPUT.RANDOM_FLIP = "none"
    samples = [x for b in itertools.islice(loader_of(cfg, drawn("rectangles")), 6) for x in b]
    assert {x["image_id"]: x[LOST] for x in samples} == {0: (1, 0), 1: (0, 0), 2: (0, 0)}


@needs_albumentations
def test_label_maps_follow_their_images(cfg, tmp_path):
    labels = np.zeros((60, 80), np.uint8)
    labels[10:30, 20:60] = 1
    Image.fromarray(labels * 200).convert("RGB").save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.INPUT.LSJ.ENABLED, cfg.INPUT.LSJ.SIZE, cfg.INPUT.LSJ.SCALE = True, (60, 60), (1.0, 2.0)
    cfg.INPUT.ALBUMENTATIONS = [{"name": "Affine", "rotate": (-45, 45), "p": 1.0}]
    mapper = SemSegDatasetMapper(cfg)
    record = {"file_name": str(tmp_path / "image.png")}
    record["sem_seg_file_name"] = str(tmp_path / "labels.png")
    for _ in range(5):
        sample = mapper(record)
        assert sample["image"].shape[1:] == sample["sem_seg"].shape
        same = (sample["image"][0] > 100) == (sample["sem_seg"] == 1)
        assert same.double().mean() > 0.95


def test_recipes_are_built_in_order(cfg):
    assert build_mixes(cfg) == [] and build_slivers(cfg) is None
    for name in ("MIXUP", "COPY_PASTE", "MOSAIC"):
        cfg.INPUT[name].ENABLED = True
    assert [type(x) for x in build_mixes(cfg)] == [Mosaic, CopyPaste, MixUp]

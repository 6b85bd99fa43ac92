"""TEST.SLICES: slices cover an image, each object is found once, small images are as ever."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from sparsercnn.data import build_test_loader, register_datasets
from sparsercnn.engine.setup import load_config
from sparsercnn.errors import ConfigError, ImageError
from sparsercnn.inference import prepare_for_inference
from sparsercnn.inference.loading import load
from sparsercnn.modeling.slices import SlicedInference, merge_slices
from sparsercnn.modeling.windows import window_slices


def test_windows_by_hand():
    found = [(y.start, y.stop, x.start, x.stop) for y, x in window_slices((5, 9), (5, 4), (9, 3))]
    assert found == [(0, 5, 0, 4), (0, 5, 3, 7), (0, 5, 5, 9)]
    assert window_slices((5, 9), (8, 9), (4, 4)) == [(slice(0, 5), slice(0, 9))]


class Finder(nn.Module):
    """Finds what is visible of objects, whose values in the first channel are their numbers."""

    device = "cpu"
    is_exported = True

    def __init__(self, with_masks=False):
        super().__init__()
        self.with_masks = with_masks
        self.sizes = []

    def forward(self, inputs):
        outputs = []
        for x in inputs:
            image = x["image"][0]
            self.sizes.append(tuple(image.shape))
            masks = [image == value for value in image.unique() if value > 0]
            places = [mask.nonzero() for mask in masks]
            boxes = [[*p.amin(0).flip(0), *(p.amax(0).flip(0) + 1)] for p in places]
            found = Instances(tuple(image.shape))
            found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
            found.scores = torch.tensor([0.5 + 1e-5 * len(p) for p in places])
            found.pred_classes = torch.zeros(len(masks), dtype=torch.int64)
            if self.with_masks:
                found.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *image.shape) > 0
            elif "height" in x:
                found = detector_postprocess(found, x["height"], x["width"])
            outputs.append({"instances": found})
        return outputs


def scatter(size, boxes):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        image[:, y0:y1, x0:x1] = number
    return image


@pytest.mark.parametrize("seed", range(4))
def test_every_object_is_found_once_and_whole(seed):
    rng = np.random.default_rng(seed)
    boxes = []
    for row in range(6):  # of sides of 6 to 20 pixels, some of them on the borders of slices
        for column in range(8):
            x, y = 25 * column + rng.integers(0, 5), 25 * row + rng.integers(0, 5)
            w, h = rng.integers(6, 20, 2)
            boxes.append((x, y, min(x + w, 200), min(y + h, 150)))
    model = Finder(with_masks=True)
    sliced = SlicedInference(model, size=(70, 70), overlap=0.3, whole=False)
    image = scatter((150, 200), boxes)
    found = sliced([{"image": image, "height": 150, "width": 200}])[0]["instances"]
    assert set(model.sizes) == {(70, 70)}
    assert sorted(map(tuple, found.pred_boxes.tensor.int().tolist())) == sorted(boxes)
    assert (found.scores[:-1] >= found.scores[1:]).all()
    for box, mask in zip(found.pred_boxes.tensor.int().tolist(), found.pred_masks, strict=True):
        number = 1 + boxes.index(tuple(box))
        assert torch.equal(mask, image[0] == number)


def test_an_object_larger_than_a_slice():
    box = (20, 30, 180, 130)
    image = {"image": scatter((150, 200), [box])}
    whole = SlicedInference(Finder(), size=(70, 70))([image])[0]["instances"]
    assert whole.pred_boxes.tensor.tolist() == [list(box)]
    # Without the whole image, its parts remain, which do not overlap by half.
    parts = SlicedInference(Finder(), size=(70, 70), whole=False)([image])[0]["instances"]
    assert len(parts) > 1


def detections(size, boxes, scores, classes):
    found = Instances(size)
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return found


def test_merging_by_hand():
    windows = [(slice(0, 50), slice(0, 60)), (slice(0, 50), slice(40, 100))]
    left = detections(
        (50, 60),
        [[30, 10, 60, 30], [5, 5, 15, 15], [6, 6, 14, 14], [45, 35, 55, 45]],
        [0.9, 0.8, 0.7, 0.6],
        [0, 0, 0, 1],
    )
    right = detections((50, 60), [[0, 10, 25, 30], [5, 35, 15, 45]], [0.5, 0.95], [0, 0])
    merged = merge_slices([left, right], windows, (50, 100))
    assert merged.pred_boxes.tensor.tolist() == [
        [45, 35, 55, 45],  # of class 0; that of class 1 at the same place stays
        [30, 10, 65, 30],  # both parts are cut: the box around them
        [5, 5, 15, 15],  # two of one window stay apart
        [6, 6, 14, 14],
        [45, 35, 55, 45],
    ]
    assert merged.pred_classes.tolist() == [0, 0, 0, 0, 1]
    assert merged.scores.tolist() == pytest.approx([0.95, 0.9, 0.8, 0.7, 0.6])
    assert len(merge_slices([left, right], windows, (50, 100), max_detections=2)) == 2
    # The better part is cut, the other one is whole.
    whole = detections((50, 60), [[0, 10, 40, 30]], [0.3], [0])
    half = detections((50, 60), [[40, 10, 60, 30]], [0.9], [0])
    merged = merge_slices([half, whole], windows, (50, 100))
    assert merged.pred_boxes.tensor.tolist() == [[40, 10, 80, 30]]
    assert merged.scores.tolist() == pytest.approx([0.9])
    # A part that another window sees whole is left out, even of another class; of the whole image,
    # nothing is.
    part = detections((50, 60), [[45, 10, 60, 30]], [0.9], [1])
    other = detections((50, 60), [[5, 10, 40, 30]], [0.3], [0])
    merged = merge_slices([part, other], windows, (50, 100))
    assert merged.pred_boxes.tensor.tolist() == [[45, 10, 80, 30]]
    everything = [windows[0], (slice(0, 50), slice(0, 100))]
    nothing = detections((50, 100), [], [], [])
    assert len(merge_slices([part, nothing], everything, (50, 100))) == 1
    empty = detections((50, 60), [], [], [])
    assert len(merge_slices([empty, empty], windows, (50, 100))) == 0


# Two slices that overlap by 20 pixels, and the whole image.
WINDOWS = [
    (slice(0, 180), slice(0, 100)),
    (slice(0, 180), slice(80, 180)),
    (slice(0, 180), slice(0, 180)),
]


def merge_in_three(left=(), right=(), whole=()):
    """Boxes and scores of what is merged of ``(box, score)`` in each of WINDOWS."""
    found = []
    for (_, columns), given in zip(WINDOWS, (left, right, whole), strict=True):
        x = columns.start
        boxes = [[x0 - x, y0, x1 - x, y1] for (x0, y0, x1, y1), _ in given]
        scores = [score for _, score in given]
        found.append(detections((180, columns.stop - x), boxes, scores, [0] * len(boxes)))
    merged = merge_slices(found, WINDOWS, (180, 180))
    scores = [round(score, 3) for score in merged.scores.tolist()]
    return list(zip(merged.pred_boxes.tensor.int().tolist(), scores, strict=True))


def test_an_object_in_front_of_another_one_stays():
    child, adult = ([30, 30, 50, 60], 0.9), ([10, 10, 90, 90], 0.8)
    assert merge_in_three(left=[child], whole=[adult]) == [child, adult]
    # The same object, seen by both.
    again = [12, 10, 90, 92]
    assert merge_in_three(left=[adult], whole=[(again, 0.7)]) == [([10, 10, 90, 90], 0.8)]


def test_all_parts_of_an_object_join_its_whole_box():
    """The parts in the slices overlap by a fourth, and the best of all is one of them."""
    first, second = ([20, 20, 100, 80], 0.9), ([80, 20, 140, 80], 0.8)
    whole = [20, 20, 140, 80]
    for score in (0.5, 0.85, 0.95):
        assert merge_in_three([first], [second], [(whole, score)]) == [(whole, max(score, 0.9))]
    # Without it, they are two, as before; of one slice, the second stays an object of its own.
    assert len(merge_in_three([first], [second])) == 2
    # A box is not exact to the pixel: a part may end some pixels before the cut.
    near = [20, 20, 94, 80]
    assert merge_in_three([(near, 0.9)], [second], [(whole, 0.5)]) == [(near, 0.9)]
    front = ([80, 30, 100, 70], 0.8)
    assert merge_in_three([first, front], [], [(whole, 0.5)]) == [(whole, 0.9), front]


def test_of_one_slice_one_whole_object_joins():
    windows = [(slice(0, 640), slice(0, 640)), (slice(0, 640), slice(512, 1152))]
    left = detections((640, 640), [[300, 100, 630, 500]], [0.9], [0])  # ends near its cut
    right = detections((640, 640), [[70, 120, 90, 200], [95, 300, 115, 420]], [0.8, 0.7], [0, 0])
    merged = merge_slices([left, right], windows, (640, 1152))
    assert merged.pred_boxes.tensor.tolist() == [[300, 100, 630, 500], [582, 120, 602, 200]]
    # The most similar one joins, even if another one, in front of it, is better.
    part, whole, front = ([20, 20, 100, 80], 0.9), ([20, 20, 140, 80], 0.5), ([60, 30, 95, 70], 0.8)
    assert merge_in_three(left=[part], whole=[front, whole]) == [(whole[0], 0.9), front]


SLICES = ["TEST.SLICES.ENABLED", "True", "TEST.SLICES.SIZE", "(40, 40)"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_squares):
    """A folder with the tiny model, untrained, and its config."""
    from sparsercnn.cli import train

    folder = make_squares(tmp_path_factory.mktemp("slices"))
    options = ["SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(folder / "run"), "MODEL.DEVICE", "cpu"]
    options += ["TEST.BEST_METRIC", ""]
    command = ["--num-gpus", "0", "--config-file", str(folder / "tiny.yaml"), *options]
    assert train.main(command) == 0
    return folder


def same(one, other):
    pairs = [(x.pred_boxes.tensor, x.scores, x.pred_classes) for x in (one, other)]
    return all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))


def test_an_image_that_fits_into_a_slice_is_as_ever(run):
    path = str(run / "0.png")
    opts = ["TEST.SLICES.ENABLED", "True", "TEST.SLICES.SIZE", "(64, 64)"]
    opts += ["INPUT.MIN_SIZE_TEST", "96"]
    plain = load(run / "run", "cpu", opts=opts[-2:])(path).output["instances"]
    sliced = load(run / "run", "cpu", opts=opts)
    assert isinstance(sliced.model, SlicedInference)
    assert same(plain, sliced(path).output["instances"])


def test_slices_have_no_stages(run):
    predictor = load(run / "run", "cpu", opts=SLICES)
    with pytest.raises(ConfigError, match="has no stages; .* without TEST.SLICES"):
        predictor.stages(run / "0.png")


def test_evaluation_and_predictor_agree(run):
    predictor = load(run / "run", "cpu", opts=SLICES)
    cfg = load_config(run / "tiny.yaml", ["MODEL.DEVICE", "cpu", *SLICES])
    name = cfg.DATASETS.TEST[0]
    register_datasets([name])
    for batch in build_test_loader(cfg, name):
        assert batch[0]["image"].shape[1:] == (64, 64)
        with torch.inference_mode():
            found = predictor.model(batch)[0]["instances"]
        again = predictor(batch[0]["file_name"]).output["instances"]
        assert same(found, again) and found.image_size == (64, 64) and len(found) > 6
    assert MetadataCatalog.get(name).thing_classes == ["odd", "even"]


def test_exported_models_are_wrapped_alike(run):
    opts = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "40", *SLICES]
    cfg = load_config(run / "tiny.yaml", opts, register=False)
    model = prepare_for_inference(cfg, Finder())
    found = model([{"image": scatter((64, 64), [(30, 5, 50, 20)])}])[0]["instances"]
    assert found.pred_boxes.tensor.tolist() == [[30, 5, 50, 20]]


def test_a_resized_image_is_refused(run):
    model = SlicedInference(Finder(), size=(40, 40))
    with pytest.raises(ConfigError, match="was resized to 60 x 50"):
        model([{"image": scatter((50, 60), []), "height": 100, "width": 120}])


def test_an_image_that_is_too_thin_as_a_whole_is_refused():
    """Its slices can be resized, but of the whole image less than half a pixel would be left."""
    model = SlicedInference(Finder(), augmentations=[ResizeShortestEdge(64, 128)], size=(40, 40))
    with pytest.raises(ImageError, match="An image of 1 x 300 pixels cannot be resized"):
        model([{"image": scatter((300, 1), [])}])


@pytest.mark.parametrize(
    "config,opts,message",
    [
        ("quickstart/danet", [], "CROP_SIZE"),
        ("quickstart/sparsercnn", ["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED"),
        ("quickstart/sparsercnn", ["TEST.SLICES.OVERLAP", "1.0"], "TEST.SLICES.OVERLAP is 1.0"),
    ],
)
def test_what_slices_do_not_go_together_with(config, opts, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config, ["TEST.SLICES.ENABLED", "True", *opts], register=False)


def test_a_demo_writes_what_slices_find(run, tmp_path):
    from sparsercnn.cli import predict

    pixels = np.zeros((90, 150, 3), np.uint8)
    pixels[20:50, 60:90] = 255
    Image.fromarray(pixels).save(tmp_path / "large.png")
    command = ["--input", str(tmp_path / "large.png"), "--output", str(tmp_path / "drawn")]
    command += ["--confidence-threshold", "0.0", "--opts", "MODEL.WEIGHTS", str(run / "run")]
    assert predict.main([*command, "MODEL.DEVICE", "cpu", *SLICES]) == 0
    found = json.loads((tmp_path / "drawn/detections.json").read_text())
    assert len(found) > 6  # proposals of the model
    assert max(x["bbox"][0] + x["bbox"][2] for x in found) > 80

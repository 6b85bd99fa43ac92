"""Multi-scale, mirrored and windowed segmentation against models whose answer is known."""

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from sparsercnn import add_sparsercnn_config
from sparsercnn.modeling.segmentation.sem_seg_inference import (
    SemSegInference,
    with_sem_seg_inference,
)

SIZE = (20, 34)


class Pointwise(nn.Module):
    """Logits of a pixel from that pixel alone."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3) / 100)
        self.seen = []

    @property
    def device(self):
        return self.weight.device

    def logits(self, image):
        return torch.einsum("kc,chw->khw", self.weight, image.float())

    def forward(self, batched_inputs):
        self.seen += [tuple(x["image"].shape[1:]) for x in batched_inputs]
        return [{"sem_seg": self.logits(x["image"])} for x in batched_inputs]


class Neighbourhood(Pointwise):
    """Logits that depend on the surroundings, and not alike on left and right."""

    def logits(self, image):
        shifted = image.float().roll(3, dims=2) + 0.5 * image.float().roll(2, dims=1)
        return super().logits(shifted)


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)


def segment(wrapped, image, **size):
    with torch.no_grad():
        return wrapped([{"image": image, **size}])[0]["sem_seg"]


def test_plain_inference_is_the_softmax(image):
    model = Neighbourhood()
    torch.testing.assert_close(
        segment(SemSegInference(model), image), model.logits(image).softmax(0)
    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("stride", [None, (3, 4), (8, 10), (1, 10)])
@pytest.mark.parametrize("crop_size", [(8, 10), (8, 100), (100, 10), (20, 34)])
def test_windows_equal_the_whole_image_for_a_pointwise_model(image, crop_size, stride, flip):
    model = Pointwise()
    wrapped = SemSegInference(model, crop_size=crop_size, stride=stride, flip=flip)
    torch.testing.assert_close(segment(wrapped, image), model.logits(image).softmax(0))
    window = (min(crop_size[0], SIZE[0]), min(crop_size[1], SIZE[1]))
    assert set(model.seen) == {window}


def test_overlapping_windows_are_averaged(image):
    model = Neighbourhood()
    out = segment(SemSegInference(model, crop_size=(20, 20), stride=(20, 14)), image)
    left = model.logits(image[..., :20]).softmax(0)
    right = model.logits(image[..., 14:]).softmax(0)
    torch.testing.assert_close(out[..., :14], left[..., :14])
    torch.testing.assert_close(out[..., 20:], right[..., 6:])
    torch.testing.assert_close(out[..., 14:20], (left[..., 14:] + right[..., :6]) / 2)


@pytest.mark.parametrize("crop_size", [None, (12, 10)])
def test_the_mirror_image_has_the_mirrored_result(image, crop_size):
    options = {"scales": (0.5, 1.0, 1.5), "crop_size": crop_size, "stride": crop_size}
    model = Neighbourhood()
    wrapped = SemSegInference(model, flip=True, **options)
    whole = crop_size is None
    difference = segment(wrapped, image.flip(-1)).flip(-1) - segment(wrapped, image)
    # Windows begin at the left border, so that theirs are mirrored where they divide the width.
    assert (difference.abs().max() < 1e-4) == whole
    plain = SemSegInference(model, **options)
    difference = segment(plain, image.flip(-1)).flip(-1) - segment(plain, image)
    assert difference.abs().max() > 1e-2


def test_scales_are_averaged_in_the_size_of_the_result(image):
    model = Pointwise()
    wrapped = SemSegInference(model, scales=(0.5, 1.0, 2.0))
    out = segment(wrapped, image, height=40, width=60)
    assert model.seen == [(10, 17), (20, 34), (40, 68)]
    single = [
        segment(SemSegInference(model, scales=(scale,)), image, height=40, width=60)
        for scale in (0.5, 1.0, 2.0)
    ]
    torch.testing.assert_close(out, sum(single) / 3)
    torch.testing.assert_close(out.sum(0), torch.ones(40, 60), rtol=1e-4, atol=1e-4)


def test_a_constant_image_is_segmented_alike_at_all_scales():
    image = torch.full((3, 20, 34), 77, dtype=torch.uint8)
    model = Pointwise()
    wrapped = SemSegInference(model, scales=(0.3, 1.0, 1.7), flip=True, crop_size=(9, 9))
    torch.testing.assert_close(
        segment(wrapped, image, height=11, width=50),
        model.logits(image).softmax(0)[:, :1, :1].expand(-1, 11, 50),
        rtol=1e-4,
        atol=1e-4,
    )


def test_the_config_switches_it_on():
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    model = Pointwise().eval()
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    assert with_sem_seg_inference(cfg, model) is model
    for key, value in (("FLIP", True), ("SCALES", (1.0, 2.0)), ("CROP_SIZE", (32, 48))):
        changed = cfg.clone()
        changed.TEST.SEM_SEG[key] = value
        wrapped = with_sem_seg_inference(changed, model)
        assert wrapped.model is model and not wrapped.training
        changed.MODEL.META_ARCHITECTURE = "SparseRCNN"
        assert with_sem_seg_inference(changed, model) is model
    assert wrapped.stride == (21, 32)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scales": ()}, "SCALES must be positive"),
        ({"scales": (1.0, 0.0)}, "SCALES must be positive"),
        ({"crop_size": (10,)}, "CROP_SIZE must be two positive"),
        ({"crop_size": (10, 0)}, "CROP_SIZE must be two positive"),
        ({"crop_size": (10, 10), "stride": (10, 0)}, "STRIDE must be two positive"),
        ({"crop_size": (10, 10), "stride": (11, 5)}, "STRIDE .* must not be larger than CROP_SIZE"),
    ],
)
def test_errors_name_the_key(options, message):
    with pytest.raises(ValueError, match=message):
        SemSegInference(Pointwise(), **options)

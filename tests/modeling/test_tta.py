import pytest
import torch
from detectron2.data.transforms import HFlipTransform, ResizeTransform, TransformList
from detectron2.structures import Boxes, Instances
from torch import nn
from torchvision.ops import box_iou

from sparsercnn import SparseRCNNWithTTA
from sparsercnn.modeling import tta
from sparsercnn.modeling.tta import augmentation_sizes, soft_vote


def greedy_soft_vote(boxes, scores, classes, iou_thresh, min_score):
    """The procedure as told, one group at a time."""
    left = scores.argsort(descending=True).tolist()
    result = []
    while left:
        best = left[0]
        iou = box_iou(boxes[best : best + 1], boxes)[0]
        group = [i for i in left if classes[i] == classes[best] and iou[i] > iou_thresh]
        left = [i for i in left if i not in group]
        weights = scores[group]
        mean = (boxes[group] * weights[:, None]).sum(0) / weights.sum()
        result.append((scores[best].item(), classes[best].item(), mean.tolist()))
        for i in group:
            residual = (scores[i] * (1 - iou[i])).item()
            if i != best and residual >= min_score:
                result.append((residual, classes[i].item(), boxes[i].tolist()))
    return sorted(result, reverse=True)


def test_soft_vote_is_the_greedy_procedure():
    centre = torch.rand(150, 2) * 60
    size = 20 + torch.rand(150, 2) * 15
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    scores, classes = torch.rand(150), torch.randint(3, (150,))
    merged = soft_vote(boxes, scores, classes, iou_thresh=0.5, min_score=0.1)
    expected = greedy_soft_vote(boxes, scores, classes, iou_thresh=0.5, min_score=0.1)
    assert len(expected) < 150 and len(merged[0]) == len(expected)
    torch.testing.assert_close(merged[1], torch.tensor([x[0] for x in expected]))
    assert merged[2].tolist() == [x[1] for x in expected]
    torch.testing.assert_close(merged[0], torch.tensor([x[2] for x in expected]))


def test_a_detection_that_only_the_nms_finds_similar_does_not_move_the_best(monkeypatch):
    """The NMS of large GPUs adds offsets to boxes, which round their IoUs."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [50, 50, 60, 66]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)
    monkeypatch.setattr(tta, "batched_nms", lambda *_: torch.tensor([0, 1]))  # IoU 0.625
    mean, score, _ = soft_vote(boxes, scores, classes, iou_thresh=0.63, min_score=0.5)
    assert mean[0].tolist() == [0, 0, 10, 10]
    assert mean[1, 3] == pytest.approx((0.8 * 60 + 0.7 * 66) / 1.5)
    assert score.tolist() == pytest.approx([0.9, 0.8])


def test_a_group_of_scores_0_keeps_its_box():
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    mean, _, _ = soft_vote(boxes, torch.tensor([0.5, 0]), torch.zeros(2).long(), iou_thresh=0.5)
    assert torch.equal(mean, boxes)


def test_soft_vote_of_nothing():
    boxes, scores, classes = soft_vote(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert len(boxes) == len(scores) == len(classes) == 0


def test_masks_of_a_group_are_averaged_over_the_mean_box():
    """Two boxes of 8 pixels, shifted by 2: the mean is shifted by 0.5 with scores 0.9 and 0.3."""
    boxes = torch.tensor([[0.0, 0, 8, 8], [2, 0, 10, 8], [30, 30, 40, 40]])
    scores, classes = torch.tensor([0.9, 0.3, 0.5]), torch.zeros(3, dtype=torch.int64)
    masks = torch.zeros(3, 16, 16)
    masks[0, :, :8] = 1  # pixels 0 to 4
    masks[1, :, 4:12] = 1  # pixels 2 + 2 to 2 + 6
    masks[2] = 0.7
    mean, _, _, merged = soft_vote(boxes, scores, classes, iou_thresh=0.5, masks=masks)
    assert mean[0].tolist() == pytest.approx([0.5, 0, 8.5, 8]) and len(mean) == 3
    row = merged[0, 8]  # half pixels from 0.5 to 8.5
    expected = torch.tensor([0.75] * 7 + [0.25] * 8 + [0.0])
    torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)
    assert (merged[1] == masks[2]).all()  # alone
    assert (merged[2] == masks[1]).all()  # a member that is also kept by itself


class _FixedDetector(nn.Module):
    """Finds the same box of the scene, wherever the augmentation has put it."""

    input_format = "RGB"

    def __init__(self, has_masks=False):
        super().__init__()
        self.has_masks = has_masks

    def forward(self, batched_inputs, do_postprocess=True):
        results = []
        for x in batched_inputs:
            h, w = x["image"].shape[1:]
            result = Instances((h, w))
            left = 0.5 if x["flipped"] else 0.0
            box = torch.tensor([[left * w, 0.0, (left + 0.5) * w, 0.25 * h]])
            result.pred_boxes = Boxes(box)
            result.scores = torch.tensor([0.8 if x["flipped"] else 0.9])
            result.pred_classes = torch.tensor([1])
            if self.has_masks:  # the left half of the box, which is on the right in a flip
                result.pred_masks = torch.zeros(1, 1, 8, 8)
                result.pred_masks[..., 4 if x["flipped"] else 0 :][..., :4] = 1
            results.append(result)
        return results


def _mapper(dataset_dict):
    h, w = dataset_dict["height"], dataset_dict["width"]
    for scale in (1, 2):
        resize = ResizeTransform(h, w, h * scale, w * scale)
        for flipped in (False, True):
            transforms = [resize] + [HFlipTransform(w * scale)] * flipped
            yield {
                "image": torch.zeros(3, h * scale, w * scale),
                "flipped": flipped,
                "transforms": TransformList(transforms),
            }


@pytest.mark.parametrize("vote", [True, False])
def test_flips_and_sizes_are_undone(vote):
    model = SparseRCNNWithTTA(
        _FixedDetector(), tta_mapper=lambda x: list(_mapper(x)), vote=vote, nms_thresh=0.5
    )
    (result,) = model([{"image": torch.zeros(3, 40, 60), "height": 40, "width": 60}])
    result = result["instances"]
    assert len(result) == 1 and result.pred_classes.item() == 1
    torch.testing.assert_close(result.pred_boxes.tensor, torch.tensor([[0.0, 0, 30, 10]]))
    assert result.scores.item() == pytest.approx(0.9)


@pytest.mark.parametrize("vote", [True, False])
def test_masks_are_flipped_back_and_pasted(vote):
    model = SparseRCNNWithTTA(
        _FixedDetector(has_masks=True), tta_mapper=lambda x: list(_mapper(x)), vote=vote
    )
    (result,) = model([{"image": torch.zeros(3, 40, 60), "height": 40, "width": 60}])
    masks = result["instances"].pred_masks
    assert masks.shape == (1, 40, 60) and masks.dtype == torch.bool
    expected = torch.zeros(40, 60, dtype=torch.bool)
    expected[:10, :15] = True
    assert torch.equal(masks[0], expected)


def test_a_detector_with_masks_and_nothing_found(mask_model, make_input):
    x = make_input((64, 80))
    given = [{"image": x["image"], "height": 64, "width": 80}]
    with torch.no_grad():
        found = mask_model(given)[0]["instances"]
        assert found.pred_masks.shape == (len(found), 64, 80) and len(found) > 0
        mask_model.model.score_thresh = 0.999
        assert mask_model(given)[0]["instances"].pred_masks.shape == (0, 64, 80)


@pytest.fixture
def mask_model(tiny_cfg):
    from detectron2.modeling import build_model

    tiny_cfg.TEST.AUG.MIN_SIZES = (64, 96)
    tiny_cfg.TEST.AUG.SCALE_FILTER = False
    tiny_cfg.MODEL.MASK_ON, tiny_cfg.MODEL.SparseRCNN.MASK.CONV_DIM = True, 8
    return SparseRCNNWithTTA(tiny_cfg, build_model(tiny_cfg).eval())


def test_each_size_counts_for_its_range_of_boxes():
    # sqrt(30 * 10) is 17 pixels at size 1 and 35 at size 2.
    kwargs = {"tta_mapper": lambda x: list(_mapper(x)), "vote": False}
    inputs = [{"image": torch.zeros(3, 40, 60), "height": 40, "width": 60}]
    for ranges, expected in [(((0, 16), (36, 99)), 0), (((0, 20), (36, 99)), 1)]:
        model = SparseRCNNWithTTA(_FixedDetector(), scale_ranges=ranges, **kwargs)
        assert len(model(inputs)[0]["instances"]) == expected


def test_sizes_and_ranges_must_agree(tiny_cfg):
    tiny_cfg.TEST.AUG.MIN_SIZES = (100, 200)
    with pytest.raises(ValueError, match="TEST.AUG.SCALE_RANGES has 13 entries for the 2"):
        SparseRCNNWithTTA(tiny_cfg, _FixedDetector())


def test_built_from_the_config_it_runs(tiny_cfg, make_input):
    from detectron2.modeling import build_model

    tiny_cfg.TEST.AUG.MIN_SIZES = (64, 96)
    tiny_cfg.TEST.AUG.SCALE_FILTER = False
    model = SparseRCNNWithTTA(tiny_cfg, build_model(tiny_cfg).eval())
    x = make_input((64, 80))
    with torch.no_grad():
        (result,) = model([{"image": x["image"], "height": 64, "width": 80}])
    boxes = result["instances"].pred_boxes.tensor
    assert 0 < len(boxes) <= 6 and boxes.isfinite().all()


def test_each_size_gives_all_its_detections_and_the_merged_result_is_limited(tiny_cfg, make_input):
    """At most 4 of 6 proposals: the best 4 of each size need not be those of its range."""
    from detectron2.modeling import build_model

    tiny_cfg.TEST.DETECTIONS_PER_IMAGE = 4
    tiny_cfg.TEST.AUG.MIN_SIZES = (64, 96)
    tiny_cfg.TEST.AUG.FLIP = False
    tiny_cfg.TEST.AUG.SCALE_RANGES = ([0, 10000], [0, 10000])
    model = SparseRCNNWithTTA(tiny_cfg, build_model(tiny_cfg).eval())
    found = []
    model._filter_by_scale = lambda outputs: found.extend(map(len, outputs)) or outputs
    model.vote = False
    model.nms_thresh = 1.0
    inputs = [{"image": make_input((64, 80))["image"], "height": 64, "width": 80}]
    with torch.no_grad():
        (result,) = model(inputs)
    assert found == [6, 6] and len(result["instances"]) == 4


def test_sizes_follow_the_test_size(tiny_cfg):
    published = tiny_cfg.clone()
    published.INPUT.MIN_SIZE_TEST = 800
    assert augmentation_sizes(published) == published.TEST.AUG
    small = augmentation_sizes(tiny_cfg)  # tested at 128
    assert small.MIN_SIZES[:2] == (64, 80) and small.MIN_SIZES[-2:] == (288, 128)
    assert small.MAX_SIZE == published.TEST.AUG.MAX_SIZE * 0.16
    assert small.SCALE_RANGES[0] == [pytest.approx(96 * 0.16), 1600]
    mapper = SparseRCNNWithTTA(tiny_cfg, nn.Identity()).tta_mapper
    assert tuple(mapper.min_sizes) == small.MIN_SIZES and mapper.max_size == small.MAX_SIZE
    # What is set is taken as it is.
    tiny_cfg.TEST.AUG.MIN_SIZES = (100, 200)
    assert augmentation_sizes(tiny_cfg) == tiny_cfg.TEST.AUG

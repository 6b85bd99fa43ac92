"""The graph that is traced finds what the model finds, before it is traced."""

import pytest
import torch
from detectron2.modeling import build_model

from sparsercnn.errors import ExportError
from sparsercnn.export.exporters import build_graph, trace
from sparsercnn.export.runtimes import ExportedModel


class _Metadata:
    input_format, input_dtype, smallest_side = "RGB", "uint8", 1
    outputs = ("boxes", "scores", "classes", "masks")


@torch.inference_mode()
def test_masks_of_the_graph(small, pictures):
    _, model = small("masks")
    graph = build_graph(model)
    assert graph.outputs == _Metadata.outputs
    graph = ExportedModel(graph, _Metadata(), torch.device("cpu"))
    for batch in pictures:
        for found, expected in zip(graph(batch), model(batch), strict=True):
            found, expected = found["instances"], expected["instances"]
            assert len(found) == len(expected) > 5
            torch.testing.assert_close(
                found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-2
            )
            assert torch.equal(found.pred_classes, expected.pred_classes)
            assert expected.pred_masks.any() and not expected.pred_masks.all()
            different = found.pred_masks != expected.pred_masks
            assert different.float().mean() < 1e-3


def test_images_of_one_channel_are_traced(small):
    cfg, _ = small("sparsercnn")
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "L", [127.5], [60.0]
    program = trace(build_graph(build_model(cfg).eval()))
    images = torch.zeros(1, 1, 96, 128, dtype=torch.uint8)
    assert program.module()(images, torch.tensor([[96, 128]]))[0].shape[-1] == 4


def test_a_cascade_with_another_pooler_is_refused(small):
    cfg, _ = small("cascade")
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIPool"
    with pytest.raises(ExportError, match="a POOLER_TYPE other than ROIAlign"):
        build_graph(build_model(cfg).eval())

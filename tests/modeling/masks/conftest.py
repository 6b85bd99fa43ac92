import pytest
from detectron2.structures import PolygonMasks


@pytest.fixture
def mask_cfg(tiny_cfg):
    """The tiny detector with tiny mask heads, without norms."""
    tiny_cfg.MODEL.MASK_ON = True
    mask = tiny_cfg.MODEL.SparseRCNN.MASK
    mask.POOLER_RESOLUTION, mask.DIM_DYNAMIC, mask.NUM_CONV = 4, 4, 1
    mask.CONV_DIM, mask.NORM = 8, ""
    return tiny_cfg


@pytest.fixture
def make_masked(make_input):
    def make(size, boxes=(), classes=()):
        """A training input whose objects are the lower left triangles of their boxes."""
        x = make_input(size, boxes, classes)
        triangles = [[[x1, y1, x1, y2, x2, y2]] for x1, y1, x2, y2 in boxes]
        x["instances"].gt_masks = PolygonMasks(triangles)
        return x

    return make


@pytest.fixture
def inputs(make_masked):
    """Two images with objects, and one without."""
    return [
        make_masked((64, 96), [[4.0, 4, 40, 50], [50, 10, 90, 60]], [0, 2]),
        make_masked((50, 40)),
        make_masked((64, 64), [[8.0, 6, 60, 44]], [1]),
    ]

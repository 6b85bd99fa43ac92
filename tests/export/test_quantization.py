import os

import pytest
import torch

from sparsercnn.errors import ExportError
from sparsercnn.export import load_exported
from sparsercnn.export.exporters import export_model
from sparsercnn.export.quantization import quantize


@pytest.mark.slow
def test_eight_bits(small, pictures, labels, exported, tmp_path):
    for package in ("onnx", "onnxscript", "openvino", "nncf"):
        pytest.importorskip(package)
    cfg, model = small("sparsercnn")
    images = [x["image"] for batch in pictures for x in batch]
    path = str(tmp_path / "model.xml")
    checked = export_model(
        cfg, model, labels, "openvino", path, calibration=images, check=os.path.basename
    )
    assert checked == "model.xml"
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "model.xml"]
    # Eight bits for each weight of the convolutions and matrices instead of 32.
    full = os.path.getsize(exported("sparsercnn", "openvino").replace(".xml", ".bin"))
    assert os.path.getsize(tmp_path / "model.bin") < 0.4 * full
    quantised = load_exported(path)
    assert quantised.metadata.precision == "int8"
    with torch.inference_mode():
        found, expected = (x(pictures[0])[0]["instances"].scores for x in (quantised, model))
    torch.testing.assert_close(found[:5], expected[:5], rtol=0, atol=0.05)


def test_no_image_is_an_error():
    pytest.importorskip("nncf")
    with pytest.raises(ExportError, match="at least one calibration image"):
        quantize(None, [], None)


def test_a_failed_check_leaves_nothing(small, labels, tmp_path):
    cfg, model = small("danet")

    def refuse(path):
        assert os.path.getsize(path) > 0
        raise ExportError("different")

    with pytest.raises(ExportError, match="different"):
        export_model(cfg, model, labels, "torch_export", tmp_path / "a.pt2", check=refuse)
    assert os.listdir(tmp_path) == []

"""An exported file finds what the model finds in PyTorch."""

import sys

import pytest
import torch

from sparsercnn.engine.checkpoint_files import is_exported
from sparsercnn.errors import ConfigError, ExportError
from sparsercnn.export import load_exported, load_exported_for
from sparsercnn.export.check import compare
from sparsercnn.export.exporters import build_graph, export_model, trace
from sparsercnn.inference.loading import load

_DETECTORS = ["softmax and NMS", "dual attention", "dynamic", "msca_adp", "mssa"]
_DETECTORS += ["res5 attention", "convnext", "vit", "masks", "cascade", "cascade of masks"]
_DETECTORS = ["sparsercnn", *(pytest.param(x, marks=pytest.mark.slow) for x in _DETECTORS)]
_SEGMENTORS = ["danet", pytest.param("danet projected", marks=pytest.mark.slow)]
_PACKAGES = {"torch_export": [], "onnx": ["onnx", "onnxscript", "onnxruntime"]}
_PACKAGES["openvino"] = ["onnx", "onnxscript", "openvino"]


@pytest.fixture
def open_file(exported):
    def open_file(system, form, **options):
        for package in _PACKAGES[form]:
            pytest.importorskip(package)
        return load_exported(exported(system, form), **options)

    return open_file


@torch.inference_mode()
def run(model, pictures):
    return [output for batch in pictures for output in model(batch)]


@pytest.mark.parametrize("form", _PACKAGES)
@pytest.mark.parametrize("system", _DETECTORS)
def test_the_same_detections(open_file, small, pictures, system, form):
    cfg, model = small(system)
    found = run(open_file(system, form), pictures)
    expected = run(model, pictures)
    counts = []
    for ours, theirs in zip(found, expected, strict=True):
        differences = compare(theirs, ours)
        assert differences.pixels <= 0.01 and differences.score <= 1e-4, differences
        assert ours["instances"].image_size == theirs["instances"].image_size
        assert len(ours["instances"]) == len(theirs["instances"])
        counts.append(differences.count)
        if cfg.MODEL.MASK_ON:
            share = [x["instances"].pred_masks.float().mean().item() for x in (ours, theirs)]
            assert share[0] == pytest.approx(share[1], abs=1e-3)
    assert min(counts) > 5  # or the above would prove little


@pytest.mark.parametrize("form", _PACKAGES)
@pytest.mark.parametrize("system", _SEGMENTORS)
def test_the_same_labels(open_file, small, pictures, system, form):
    found = run(open_file(system, form), pictures)
    for ours, theirs in zip(found, run(small(system)[1], pictures), strict=True):
        torch.testing.assert_close(ours["sem_seg"], theirs["sem_seg"], rtol=1e-3, atol=1e-4)
        assert len(theirs["sem_seg"].argmax(0).unique()) > 1


def test_labels_of_the_graph_are_those_of_its_logits(open_file, pictures):
    model = open_file("danet", "torch_export")
    image = pictures[1][0]["image"]
    labels, _ = model.session(image[None], torch.tensor([image.shape[1:]]))
    scores = model([{"image": image}])[0]["sem_seg"]
    assert torch.equal(labels[0], scores.argmax(0))


def test_padding_of_a_batch_is_ignored(open_file, pictures):
    """Whatever is beside the smaller image; a caller may leave there what it has."""
    model = open_file("sparsercnn", "torch_export")
    image = pictures[1][0]["image"]
    batch = torch.full((2, 3, 150, 200), 77, dtype=torch.uint8)
    batch[:, :, : image.shape[1], : image.shape[2]] = image
    sizes = torch.tensor([[150, 200], image.shape[1:]])
    black = batch.clone()
    black[:, :, image.shape[1] :] = 0
    for ours, theirs in zip(model.session(batch, sizes), model.session(black, sizes), strict=True):
        assert torch.equal(ours[1], theirs[1])
        assert ours.is_floating_point() is False or not torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("form", _PACKAGES)
def test_the_file_runs_without_its_config(open_file, exported, small, pictures, form):
    cfg, _ = small("softmax and NMS")
    metadata = open_file("softmax and NMS", form).metadata
    assert metadata.names == ["mug", "spoon", "plate"]
    assert (metadata.min_size, metadata.max_size) == (128, 1333)
    assert (metadata.score_threshold, metadata.nms_threshold) == (0.1, 0.6)
    assert metadata.input_format == cfg.INPUT.FORMAT and metadata.input_dtype == "uint8"
    assert metadata.config == cfg.dump()
    predictor = load(exported("softmax and NMS", form), device="cpu")
    image = pictures[0][0]["image"].permute(1, 2, 0).numpy()
    found = predictor.predict(image)["instances"]
    assert found.image_size == image.shape[:2] and len(found) > 0
    assert found.scores.min() >= 0.1
    assert predictor.labels.thing(1) == "spoon" and predictor.labels.category_id(0) == 7


def test_bytes_are_asked_for(open_file, pictures):
    model = open_file("sparsercnn", "torch_export")
    image = pictures[0][0]["image"]
    as_bytes, as_floats = model([{"image": image}, {"image": image.float()}])
    assert torch.equal(as_bytes["instances"].scores, as_floats["instances"].scores)
    with pytest.raises(ExportError, match="--input-dtype float32"):
        model([{"image": image + 0.5}])


def test_images_smaller_than_a_window_are_padded(open_file):
    """To 33 pixels, of which the image is 20."""
    model = open_file("mssa", "torch_export")
    assert model.metadata.smallest_side == 33
    image = torch.randint(0, 256, (3, 20, 90), dtype=torch.uint8)
    instances = model([{"image": image}])[0]["instances"]
    assert instances.image_size == (20, 90)
    assert instances.pred_boxes.tensor[:, 3].max() <= 20


@pytest.mark.parametrize(
    "options, message",
    [
        (["MODEL.SparseRCNN.NUM_CLASSES", 5], "number of classes 3, but the config has 5"),
        (["INPUT.FORMAT", "BGR"], "INPUT.FORMAT RGB, but the config has BGR"),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], "META_ARCHITECTURE SparseRCNN, but"),
        (["MODEL.SparseRCNN.NMS_THRESH_TEST", 0.6], "NMS_THRESH_TEST 0.7, .* config has 0.6"),
        (["MODEL.SparseRCNN.SCORE_THRESH_TEST", 0.2], "SCORE_THRESH_TEST 0.0, .* config has 0.2"),
        (["TEST.DETECTIONS_PER_IMAGE", 7], "DETECTIONS_PER_IMAGE .* config has 7"),
        (["TEST.DTYPE", "bfloat16"], "set TEST.DTYPE float32"),
        (["TEST.AUG.ENABLED", True], "set TEST.AUG.ENABLED"),
        (["TEST.SIZE_BUCKET", 128], "TEST.SIZE_BUCKET 128 has no effect .* set it to 0"),
    ],
)
def test_a_config_that_does_not_fit(exported, small, options, message):
    cfg, _ = small("sparsercnn")
    cfg.MODEL.WEIGHTS = exported("sparsercnn", "torch_export")
    assert load_exported_for(cfg).metadata.system == "SparseRCNN"
    cfg.merge_from_list(options)
    with pytest.raises((ExportError, ConfigError), match=message):
        load_exported_for(cfg)


def test_padding_to_few_sizes_is_not_exported(small, labels, tmp_path):
    cfg, model = small("sparsercnn")
    cfg.TEST.SIZE_BUCKET = 128
    with pytest.raises(ConfigError, match="TEST.SIZE_BUCKET 128 .* Set it to 0"):
        export_model(cfg, model, labels, "torch_export", tmp_path / "a.pt2")


def test_models_of_timm_that_cannot_be_traced_are_refused_by_name(small, monkeypatch):
    def export(*args, **options):
        raise RuntimeError("Could not guard on u0\nand more")

    graph = build_graph(small("convnext")[1])
    monkeypatch.setattr(torch.export, "export", export)
    with pytest.raises(
        ExportError, match="timm's convnext_atto cannot .*Error: Could not guard on u0$"
    ):
        trace(graph)


def test_files_that_are_none(tmp_path):
    assert is_exported("a/b.onnx") and not is_exported("a/b.pth")
    with pytest.raises(ExportError, match="model.pt2 does not exist"):
        load_exported(tmp_path / "model.pt2")
    with pytest.raises(ExportError, match="must end in .onnx, .xml, .pt2"):
        load_exported(tmp_path / "model.pth")
    (tmp_path / "model.pt2").write_bytes(b"no zip")
    with pytest.raises(ExportError, match=r"model.pt2 cannot be opened by PyTorch"):
        load_exported(tmp_path / "model.pt2")


@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_damaged_files_are_named(tmp_path, ending):
    pytest.importorskip({".onnx": "onnxruntime", ".xml": "openvino"}[ending])
    (tmp_path / f"model{ending}").write_bytes(b"no model")
    with pytest.raises(ExportError, match=f"model{ending} cannot be opened by"):
        load_exported(tmp_path / f"model{ending}")


def test_a_file_of_another_exporter_is_named(tmp_path):
    program = torch.export.export(torch.nn.Identity(), (torch.zeros(2),))
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(ExportError, match=r"lacks the metadata .*Export the model again"):
        load_exported(tmp_path / "model.pt2")


@pytest.mark.parametrize("ending, package", [(".onnx", "onnxruntime"), (".xml", "openvino")])
def test_a_missing_runtime_names_the_extra(tmp_path, monkeypatch, ending, package):
    (tmp_path / f"model{ending}").touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} .*pip install -e '.\[export\]'"):
        load_exported(tmp_path / f"model{ending}")

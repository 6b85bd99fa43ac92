"""A trained model is loaded by one call."""

import sys
import types

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

import sparsercnn
from sparsercnn.cli.train import evaluate, main
from sparsercnn.engine.checkpoint import SafeCheckpointer
from sparsercnn.engine.checkpoint_files import describe_run
from sparsercnn.engine.setup import load_config, load_model_config
from sparsercnn.errors import CheckpointError, ConfigError


@pytest.fixture
def run(files, tmp_path):
    """The folder of a run of the tiny model, whose names come from nowhere else."""
    cfg = load_config(files)
    folder = tmp_path / "run"
    model = build_model(cfg)
    metadata = {**describe_run(cfg), "thing_classes": ["cup", "fork", "dish"]}
    SafeCheckpointer(model, str(folder), metadata=metadata).save("model_final")
    return folder


@pytest.fixture(autouse=True)
def folder_of_run(tmp_path):
    (tmp_path / "run").mkdir(exist_ok=True)


def test_a_folder_and_its_checkpoint_are_the_same_model(run, picture):
    expected = sparsercnn.load(run, "cpu")
    assert isinstance(expected, sparsercnn.Predictor)
    assert expected.labels.things == ["cup", "fork", "dish"]
    for source in (str(run), run / "model_final.pth", str(run / "model_final.pth")):
        found = sparsercnn.load(source, "cpu")(picture())
        np.testing.assert_array_equal(found.boxes, expected(picture()).boxes)
        assert found.names == expected(picture()).names and found.names[0] in expected.labels.things


def test_the_device_and_the_config_can_be_chosen(run, files, picture):
    predictor = sparsercnn.load(run, torch.device("cpu"), opts=["INPUT.MIN_SIZE_TEST", 64])
    sizes = []
    predictor.model.register_forward_pre_hook(
        lambda _, inputs: sizes.append(inputs[0][0]["image"].shape)
    )
    predictor(picture())
    sparsercnn.load(run, "cpu")
    assert sizes == [(3, 64, 85)]
    assert next(predictor.model.parameters()).device.type == "cpu"
    with pytest.raises(CheckpointError, match="does not fit the model"):
        sparsercnn.load(run, "cpu", config_file="quickstart/sparsercnn")
    assert sparsercnn.load(run, config_file=files).augmentations.augs[0].short_edge_length[0] == 96
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no usable GPU"):
            sparsercnn.load(run, "cuda")


def test_what_cannot_be_loaded_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        sparsercnn.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist"):
        sparsercnn.load(tmp_path / "nowhere.pth")
    torch.save({"model": {}}, tmp_path / "foreign.pth")
    with pytest.raises(ConfigError, match=r"foreign\.pth has no config.*config_file="):
        sparsercnn.load(tmp_path / "foreign.pth")


class Runtime(torch.nn.Module):
    """What an exported model is to its callers: it takes detectron2's inputs."""

    is_exported = True

    def __init__(self, made_from, metadata):
        super().__init__()
        self.made_from, self.metadata = made_from, metadata

    def forward(self, batched_inputs):
        results = []
        for x in batched_inputs:
            found = Instances((x["height"], x["width"]))
            found.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
            found.scores, found.pred_classes = torch.tensor([0.5]), torch.tensor([1])
            results.append({"instances": found})
        return results


@pytest.fixture
def exported(files, tmp_path, monkeypatch):
    """The path of a file that a made-up runtime can load."""
    classes = {"thing_classes": ["cup", "fork", "dish"]}
    metadata = types.SimpleNamespace(classes=classes, config=load_config(files).dump())
    runtimes = types.ModuleType("sparsercnn.export")
    runtimes.load_exported = lambda path: Runtime(path, metadata)
    runtimes.load_exported_for = lambda cfg: Runtime(
        (cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE), metadata
    )
    monkeypatch.setitem(sys.modules, "sparsercnn.export", runtimes)
    return str(tmp_path / "model.onnx")


def test_an_exported_model_is_called_in_the_same_way(exported, picture):
    predictor = sparsercnn.load(exported)
    assert predictor.model.made_from == (exported, "cpu")
    found = predictor(picture())
    assert found.names == ["fork"] and found.boxes.tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ConfigError, match="Runtime has no stages"):
        predictor.stages(picture())


def test_an_exported_model_is_evaluated_as_it_is(exported, monkeypatch):
    tested = []
    monkeypatch.setattr(DefaultTrainer, "test", lambda cfg, model, _: tested.append(model) or {})
    evaluate(load_model_config(opts=["MODEL.WEIGHTS", exported], register=False))
    assert tested[0].made_from[0] == exported


def test_an_exported_model_is_not_trained(files, exported, monkeypatch, capsys):
    arguments = ["--num-gpus", "0", "--config-file", files, "DATASETS.TRAIN", "('shapes_train',)"]
    arguments += ["DATASETS.TEST", "()", "OUTPUT_DIR", f"{exported}.output"]
    assert main([*arguments, "MODEL.WEIGHTS", exported]) == 2
    assert "is an exported model, which cannot be trained" in capsys.readouterr().err

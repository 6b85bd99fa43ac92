"""Weights from others run no code, and those of the model zoos load."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from torch import nn

from sparsercnn.engine.checkpoint import SafeCheckpointer
from sparsercnn.errors import CheckpointError


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def small_model(num_classes=3):
    model = nn.Sequential()
    model.add_module("trunk", nn.Linear(4, 5))
    model.add_module("class_logits", nn.Linear(5, num_classes))
    return model


def small_resnet():
    stem = BasicStem(3, 4, norm="BN")
    stage = ResNet.make_stage(BasicBlock, 1, in_channels=4, out_channels=8, norm="BN")
    return ResNet(stem, [stage])


def write_pickle(path, data, protocol=2):
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    return str(path)


def assert_same_weights(actual, expected):
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(actual.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["model.pth", "model.pyth", "model.pkl"])
def test_a_file_that_would_run_code_is_refused(tmp_path, name):
    path, trap = tmp_path / name, tmp_path / "trap"
    data = {"model": {"trunk.bias": np.zeros(5)}, "__author__": "?", "x": Payload(trap)}
    if name.endswith(".pkl"):
        write_pickle(path, data)
    else:
        torch.save(data, path)
    with pytest.raises(CheckpointError, match=r"mkdir.*--allow-unsafe") as error:
        SafeCheckpointer(small_model()).load(str(path))
    assert str(path) in str(error.value)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["model.pth", "model.pyth", "model.pkl"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_bare_pickle_never_runs(tmp_path, name, protocol):
    trap = tmp_path / "trap"
    path = write_pickle(tmp_path / name, Payload(trap), protocol)
    with pytest.raises(CheckpointError, match="model"):
        SafeCheckpointer(small_model()).load(path)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "type", "object", "__import__"])
def test_builtins_that_can_do_harm_are_refused(tmp_path, name):
    path = tmp_path / "model.pkl"
    path.write_bytes(f"cbuiltins\n{name}\n.".encode())
    with pytest.raises(CheckpointError, match=f"builtins.{name}"):
        SafeCheckpointer(small_model()).load(str(path))


def test_a_tensor_in_a_pickle_cannot_smuggle_code(tmp_path):
    # A pickled tensor's storage is itself a file of torch, which torch reads with full trust.
    class Storage:
        def __reduce__(self):
            inner = tmp_path / "inner"
            torch.save(Payload(tmp_path / "trap"), inner, _use_new_zipfile_serialization=False)
            return torch.storage._load_from_bytes, (inner.read_bytes(),)

    path = write_pickle(tmp_path / "model.pkl", {"trunk.bias": Storage()})
    with pytest.raises(CheckpointError):
        SafeCheckpointer(small_model()).load(path)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["model.pth", "model.pkl"])
def test_the_opt_out_loads_anything(tmp_path, name):
    path, trap = tmp_path / name, tmp_path / "trap"
    model, other = small_model(), small_model()
    data = {"model": model.state_dict(), "__author__": "me", "x": Payload(trap)}
    if name.endswith(".pkl"):
        write_pickle(path, data)
    else:
        torch.save(data, path)
    SafeCheckpointer(other, allow_unsafe=True).load(str(path))
    assert trap.exists()
    assert_same_weights(other, model)


@pytest.mark.parametrize("numpy_core", [b"numpy.core", b"numpy._core"])
def test_a_zoo_backbone_loads_by_heuristics(tmp_path, numpy_core):
    backbone = small_resnet()
    for parameter in backbone.state_dict().values():
        parameter.copy_(torch.randn(parameter.shape))
    weights = {k: v.numpy() for k, v in backbone.state_dict().items() if "num_batches" not in k}
    data = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    pickled = pickle.dumps(data, protocol=2)
    pickled = pickled.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", numpy_core)
    (tmp_path / "R-50.pkl").write_bytes(pickled)

    detector = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": small_resnet()})})
    SafeCheckpointer(detector).load(str(tmp_path / "R-50.pkl"), checkpointables=[])
    loaded = detector["backbone"]["bottom_up"]
    for name, value in weights.items():
        assert np.array_equal(loaded.state_dict()[name].numpy(), value), name


def test_a_caffe2_backbone_loads(tmp_path):
    weight = np.random.RandomState(0).rand(4, 3, 7, 7).astype("float32")
    blobs = {"conv1_w": weight, "conv1_w_momentum": weight, "weight_order": np.zeros(1)}
    path = write_pickle(tmp_path / "R-50.pkl", {"blobs": OrderedDict(blobs)})
    model = nn.ModuleDict({"stem": BasicStem(3, 4)})
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(path)
    assert np.array_equal(model["stem"].conv1.weight.detach().numpy(), weight)
    assert checkpointer.incompatible.unexpected_keys == []


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_tensors_of_every_protocol_load(tmp_path, protocol):
    model, other = small_model(), small_model()
    weights = dict(model.state_dict())
    weights["trunk.weight"] = weights["trunk.weight"].numpy()
    weights["trunk.bias"] = nn.Parameter(weights["trunk.bias"])
    data = {"model": weights, "__author__": "me", "ap": np.float32(1), "b": b"\xff", "s": {1}}
    path = write_pickle(tmp_path / "m.pkl", data, protocol)
    assert SafeCheckpointer(other).load(path)["ap"] == 1
    assert_same_weights(other, model)

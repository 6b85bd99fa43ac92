"""A checkpoint carries its config, which is not trusted; a run's folder gives its checkpoint."""

import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn

from sparsercnn.engine.checkpoint import SafeCheckpointer
from sparsercnn.engine.checkpoint_files import describe_run, find_weights, read_metadata
from sparsercnn.engine.setup import load_config, load_model_config
from sparsercnn.errors import CheckpointError, ConfigError


@pytest.fixture
def write(tmp_path):
    """Writes a checkpoint without weights, with such metadata; gives its path."""

    def write(name="model.pth", **meta):
        torch.save({"model": {}, **({"meta": meta} if meta else {})}, tmp_path / name)
        return str(tmp_path / name)

    return write


def load(path, *opts, config_file=""):
    opts = ["MODEL.WEIGHTS", str(path), *opts]
    return load_model_config(config_file, opts, register=False)


# The config.


def test_a_checkpoint_gives_the_config_that_it_was_trained_with(tiny_cfg, tmp_path):
    tiny_cfg.OUTPUT_DIR = "/somewhere/else"
    tiny_cfg.MODEL.DEVICE = "cuda:7"
    tiny_cfg.INPUT.MIN_SIZE_TEST = 99
    model = nn.Linear(2, 2)
    checkpointer = SafeCheckpointer(model, str(tmp_path), metadata=describe_run(tiny_cfg))
    checkpointer.save("model")
    path = str(tmp_path / "model.pth")
    assert read_metadata(path)["versions"].keys() == {"sparsercnn", "detectron2", "torch"}

    cfg = load(path, "SEED", "5")
    assert cfg.SEED == 5 and cfg.INPUT.MIN_SIZE_TEST == 99 and cfg.is_frozen()
    # Where it was trained says nothing about this machine.
    assert ("cuda" if torch.cuda.is_available() else "cpu") == cfg.MODEL.DEVICE
    assert cfg.OUTPUT_DIR == "./output"
    assert load(path, "MODEL.DEVICE", "meta", "OUTPUT_DIR", "here").OUTPUT_DIR == "here"
    # The rest is as it was.
    tiny_cfg.SEED, tiny_cfg.OUTPUT_DIR = 5, "./output"
    tiny_cfg.MODEL.DEVICE, tiny_cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE, path
    assert yaml.safe_load(cfg.dump()) == yaml.safe_load(tiny_cfg.dump())


def test_a_config_that_is_given_comes_before_that_of_the_checkpoint(write, tiny_cfg):
    path = write(config_yaml="SEED: 4\nVERSION: 2\n")
    assert load(path).SEED == 4
    cfg = load(path, config_file="quickstart/danet")
    assert cfg.SEED == -1 and cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor"
    assert path == cfg.MODEL.WEIGHTS


def test_detectron2_reads_a_checkpoint_with_a_config(tiny_cfg, tmp_path):
    model, other = build_model(tiny_cfg), build_model(tiny_cfg)
    SafeCheckpointer(model, str(tmp_path), metadata=describe_run(tiny_cfg)).save("model")
    rest = DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    assert yaml.safe_load(rest["meta"]["config_yaml"])["VERSION"] == 2
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("SEED: !!python/object/apply:os.mkdir [TRAP]", "could not determine a constructor"),
        ("MODEL: {SparseRCN: {}}", "no key MODEL.SparseRCN"),
        ("MODEL: {SparseRCNN: {NUM_HEADS: many}}", "NUM_HEADS"),
        ("MODEL: 5", "MODEL"),
        ("TEST: {NEW_KEY: 1}", "no key TEST.NEW_KEY. Did you mean"),
        ("MODEL: {LOAD_PROPOSALS: True}", "pickled proposals"),
        ("- 1", "not a mapping"),
        ("a: [", "cannot be read"),
        ("", "not a mapping"),
        (5, "cannot be read"),
        ({"SEED": 1}, "cannot be read"),
    ],
)
def test_a_config_that_is_not_to_be_trusted_is_refused(write, tmp_path, text, expected):
    trap = tmp_path / "trap"
    text = text.replace("TRAP", str(trap)) if isinstance(text, str) else text
    path = write(config_yaml=text)
    with pytest.raises(ConfigError, match=r"--config-file") as error:
        load(path)
    assert path in str(error.value) and expected in str(error.value)
    assert not trap.exists()
    # Its author is not trusted either way; another config can be.
    assert path == load(path, config_file="quickstart/sparsercnn").MODEL.WEIGHTS


def test_keys_of_other_versions_that_change_no_result_are_left_out(write, caplog):
    text = "_BASE_: /etc/passwd\nSEED: 3\nFLOAT32: high\nSOLVER: {NEW: {A: 1}, MAX_ITER: 8}\n"
    caplog.set_level("INFO", "sparsercnn")
    cfg = load(write(config_yaml=text))
    assert cfg.SEED == 3 and cfg.SOLVER.MAX_ITER == 8 and "NEW" not in cfg.SOLVER
    assert "_BASE_, FLOAT32, SOLVER.NEW" in caplog.text


@pytest.mark.parametrize("meta", [{}, {"config": "model = dict(type='DETR')", "CLASSES": ("a",)}])
def test_a_checkpoint_of_another_project_needs_a_config_file(write, meta):
    path = write(**meta)
    with pytest.raises(ConfigError, match=r"model\.pth has no config.*--config-file"):
        load(path)
    assert path == load(path, config_file="quickstart/sparsercnn").MODEL.WEIGHTS


def test_without_config_and_weights_both_are_asked_for():
    with pytest.raises(ConfigError, match=r"--config-file FILE.*MODEL\.WEIGHTS"):
        load_model_config()
    with pytest.raises(ConfigError, match="--config-file"):  # training needs the file
        load_config("", ["MODEL.WEIGHTS", "model.pth"])
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist"):
        load("nowhere.pth")


# The folder.


def test_the_best_checkpoint_comes_first_and_is_told(write, tmp_path, caplog):
    caplog.set_level("INFO", "sparsercnn")
    write("model_0000009.pth", config_yaml="SEED: 1\n")
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth\n")
    assert load(tmp_path).SEED == 1
    write("model_final.pth", config_yaml="SEED: 2\n")
    assert load(tmp_path).SEED == 2
    write("model_best.pth", config_yaml="SEED: 3\n")
    cfg = load(tmp_path)
    assert cfg.SEED == 3 and str(tmp_path / "model_best.pth") == cfg.MODEL.WEIGHTS
    assert [r.message.rpartition("/")[2] for r in caplog.records if "Using" in r.message] == [
        "model_0000009.pth.",
        "model_final.pth.",
        "model_best.pth.",
    ]


def test_the_folder_can_be_in_the_config_also_of_a_training(write, tmp_path):
    path = write("model_final.pth")
    config = tmp_path / "own.yaml"
    config.write_text(f"VERSION: 2\nMODEL: {{WEIGHTS: {tmp_path}}}\n")
    for cfg in (
        load_config(config, register=False),
        load_config("quickstart/danet", ["MODEL.WEIGHTS", str(tmp_path)], register=False),
        load_model_config(config, register=False),
    ):
        assert path == cfg.MODEL.WEIGHTS


def test_a_folder_of_an_older_run_has_its_config_beside(write, tmp_path):
    write("model_final.pth", thing_classes=["a"])
    with pytest.raises(ConfigError, match="has no config"):
        load(tmp_path)
    (tmp_path / "config.yaml").write_text("VERSION: 2\nSEED: 6\nOUTPUT_DIR: there\n")
    cfg = load(tmp_path)
    assert cfg.SEED == 6 and cfg.OUTPUT_DIR == "./output"
    with pytest.raises(ConfigError, match="has no config"):  # a file may be from anywhere
        load(tmp_path / "model_final.pth")


def test_a_folder_without_checkpoint_is_named(tmp_path):
    (tmp_path / "last_checkpoint").write_text("gone.pth")
    with pytest.raises(CheckpointError, match="has no checkpoint: neither model_best") as error:
        find_weights(str(tmp_path))
    assert str(tmp_path) in str(error.value)

"""Modules of other people: the example in docs as they would run it, and what is refused."""

import json
import os
import subprocess
import sys

import pytest
import torch

from sparsercnn.engine import imports
from sparsercnn.engine.arguments import argument_parser
from sparsercnn.engine.setup import get_config, load_config, load_model_config
from sparsercnn.errors import ConfigError

MODULE = """
def add_config(cfg):
    cfg.MODEL.OWN_KEY = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module with a key of its own."""
    (tmp_path / "my_variant.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "_for_all", [])
    yield "my_variant"
    sys.modules.pop("my_variant", None)


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "own.yaml").write_text(text)
        return tmp_path / "own.yaml"

    return write


def test_a_config_brings_the_keys_of_its_module(module, write):
    path = write("IMPORT: ['my_variant']\nMODEL: {OWN_KEY: 5}\n")
    cfg = get_config(path)
    assert cfg.MODEL.OWN_KEY == 5 and list(cfg.IMPORT) == [module]
    assert get_config(path, ["MODEL.OWN_KEY", "7"]).MODEL.OWN_KEY == 7
    assert "OWN_KEY" not in get_config(write("SEED: 1\n")).MODEL  # other configs are without it
    with pytest.raises(ConfigError, match=r"no key MODEL\.OWN_KEYS.*MODEL\.OWN_KEY"):
        load_config(write("IMPORT: ['my_variant']\nMODEL: {OWN_KEYS: 5}\n"))


def test_overrides_can_import(module, write):
    opts = ["IMPORT", "['my_variant']", "MODEL.OWN_KEY", "4"]
    assert load_config(write("SEED: 1\n"), opts).MODEL.OWN_KEY == 4


def test_the_command_line_imports_for_all(module, write):
    args = argument_parser().parse_args(["--import", "my_variant", "--config-file", "x"])
    assert args.imports == ["my_variant"]
    cfg = load_config(write("MODEL: {OWN_KEY: 5}\n"))
    assert cfg.MODEL.OWN_KEY == 5 and cfg.IMPORT == ["my_variant"]


def test_a_mistake_on_the_command_line_is_named(capsys):
    with pytest.raises(SystemExit):
        argument_parser().parse_args(["--import", "no_such_module_here"])
    assert "no module 'no_such_module_here'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value, expected",
    [
        ("['no_such_module_here']", "no module 'no_such_module_here'.*PYTHONPATH"),
        ("['os.no_such_module']", r"no module 'os\.no_such_module'"),
        ("['variants/mine.py']", "'variants/mine.py' is a file"),
        ("['']", "'' is not the name of a module"),
        ("['.a']", r"'\.a' is not the name of a module"),
        ("['a..b']", r"'a\.\.b' is not the name of a module"),
        ("'my_variant'", "it must be a list"),
        ("[3]", "it must be a list"),
    ],
)
def test_what_cannot_be_imported_is_named(module, write, value, expected):
    path = write(f"IMPORT: {value}\n")
    with pytest.raises(ConfigError, match=rf"own\.yaml: .*{expected}"):
        load_config(path)


def test_a_package_that_the_module_needs_is_named(module, write, tmp_path):
    (tmp_path / "my_variant.py").write_text("import no_such_package_here\n")
    with pytest.raises(ConfigError, match="'my_variant' needs 'no_such_package_here'"):
        load_config(write("IMPORT: ['my_variant']\n"))


def test_a_checkpoint_does_not_choose_what_is_imported(module, write, tmp_path):
    text = "IMPORT: ['my_variant']\nMODEL: {OWN_KEY: 5}\n"
    path = str(tmp_path / "model.pth")
    torch.save({"model": {}, "meta": {"config_yaml": text}}, path)
    opts = ["MODEL.WEIGHTS", path]
    with pytest.raises(ConfigError, match="If you trust it: --import my_variant"):
        load_model_config(opts=opts)
    assert "my_variant" not in sys.modules
    __import__("my_variant")
    assert load_model_config(opts=opts).MODEL.OWN_KEY == 5


def test_lazy_configs_are_refused(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("raise SystemExit\n")
    with pytest.raises(ConfigError, match=r"config\.py is a LazyConfig.*data"):
        load_config(path)


def test_the_example_trains_and_is_drawn(squares, repository):
    folder = repository / "docs" / "examples" / "gated_interaction"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{repository / 'projects' / 'SparseRCNN'}:{folder}"
    data = f"('coco:{squares}/squares.json@{squares}',)"
    options = {
        "MODEL.FPN.OUT_CHANNELS": 32,
        "MODEL.SparseRCNN.HIDDEN_DIM": 32,
        "MODEL.SparseRCNN.NHEADS": 4,
        "MODEL.SparseRCNN.NUM_HEADS": 2,
        "MODEL.SparseRCNN.NUM_PROPOSALS": 6,
        "MODEL.SparseRCNN.NUM_CLASSES": 2,
        "MODEL.SparseRCNN.GATE_DIM": 16,
        "DATASETS.TRAIN": data,
        "DATASETS.TEST": data,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.IMS_PER_BATCH": 2,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 64,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": "out",
    }

    def run(command, *arguments):
        line = [sys.executable, "-m", "sparsercnn", command, *arguments]
        done = subprocess.run(
            line, cwd=squares, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    words = [str(x) for pair in options.items() for x in pair]
    printed = run("train", "--num-gpus", "0", "--config-file", str(folder / "gated.yaml"), *words)
    assert "Average Precision" in printed
    saved = torch.load(squares / "out/model_final.pth", weights_only=True)
    assert saved["model"]["head.head_series.1.inst_interact.gate.0.weight"].shape == (16, 32)
    arguments = ["--import", "gated_interaction", "--input", "0.png", "--output", "drawn"]
    run("predict", *arguments, "--opts", "MODEL.WEIGHTS", "out", "MODEL.DEVICE", "cpu")
    assert json.loads((squares / "drawn" / "detections.json").read_text()) is not None

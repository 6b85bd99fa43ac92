"""``python -m sparsercnn``: one table of the programs."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from sparsercnn import __main__ as commands


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sparsercnn", *arguments])
        return commands.main()

    return run


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_is_a_program_with_help(run, name, capsys):
    module = importlib.import_module(f"sparsercnn.cli.{commands.COMMANDS[name][0]}")
    assert callable(module.main)
    with pytest.raises(SystemExit) as stop:
        run(name, "--help")
    assert stop.value.code == 0
    assert f"usage: sparsercnn {name} " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [(), ("nonesuch",), ("--help",), ("-h",)])
def test_help_lists_the_commands(run, arguments, capsys):
    assert run(*arguments) == (0 if "-h" in "".join(arguments) else 2)
    text = capsys.readouterr()
    asked = "-h" in "".join(arguments)  # and can be piped into a pager
    assert all(f"\n  {name} " in (text.out if asked else text.err) for name in commands.COMMANDS)
    assert ("no command 'nonesuch'" in text.err) == ("nonesuch" in arguments)


def test_the_exit_status_is_that_of_the_program(run, capsys):
    assert run("convert", "--from", "timm", "nowhere.pth", "there.pth") == 2
    assert "error: " in capsys.readouterr().err


TOOLS = ["analyze", "benchmark", "convert", "draw_attention", "inspect_data", "report", "sweep"]


@pytest.mark.parametrize("name", TOOLS)
def test_the_tools_of_a_checkout_are_the_same_programs(repository, name, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location(name, repository / "tools" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main is importlib.import_module(f"sparsercnn.cli.{name}").main


def test_a_model_is_trained_evaluated_and_used_without_its_config_file(squares):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        command = [sys.executable, "-m", "sparsercnn", *map(str, arguments)]
        options = {"capture_output": True, "text": True, "timeout": 300}
        result = subprocess.run(command, cwd=squares, env=environment, **options)
        assert result.returncode == 0, result.stderr
        return result

    run("train", "--num-gpus", 0, "--config-file", "tiny.yaml")
    trained = squares / "out" / "inference" / "coco_instances_results.json"
    (squares / "tiny.yaml").unlink()
    (squares / "out" / "config.yaml").unlink()
    run("eval", "--num-gpus", 0, "MODEL.WEIGHTS", "out", "OUTPUT_DIR", "again")
    evaluated = squares / "again" / "inference" / "coco_instances_results.json"
    expected = json.loads(trained.read_text())
    assert json.loads(evaluated.read_text()) == expected
    options = ["--confidence-threshold", 0, "--opts", "MODEL.WEIGHTS", "out", "MODEL.DEVICE", "cpu"]
    result = run("predict", "--input", "0.png", "--output", "drawn", *options)
    assert "Using out/model_best.pth" in result.stdout
    found = json.loads((squares / "drawn" / "detections.json").read_text())
    ours = sorted(x["score"] for x in found)
    assert ours == pytest.approx(sorted(x["score"] for x in expected if x["image_id"] == 0))
    assert {x["category_name"] for x in found} <= {"odd", "even"}


def test_help_does_not_wait_for_pytorch():
    """Nor do the parsers import anything else that takes longer than Python itself."""
    names = sorted(commands.COMMANDS)
    program = (
        "import sys\n"
        "from sparsercnn.__main__ import main\n"
        f"for name in {names}:\n"
        "    try:\n"
        "        main([name, '--help'])\n"
        "    except SystemExit as stop:\n"
        "        assert stop.code == 0, name\n"
        "slow = {'torch', 'detectron2', 'numpy', 'pandas', 'cv2'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert "LazyConfig" not in result.stdout


@pytest.mark.parametrize(
    "lines",
    [
        "import sparsercnn; cfg = sparsercnn.get_config('quickstart/sparsercnn')",
        "from sparsercnn import add_sparsercnn_config",
        "from sparsercnn.engine.setup import load_config",
        "import detectron2.config; import sparsercnn",
    ],
)
def test_models_and_data_sets_are_registered_by_whatever_is_used_first(lines):
    program = (
        f"{lines}\n"
        "from detectron2.data import DatasetCatalog\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "assert 'SparseRCNN' in META_ARCH_REGISTRY and 'shapes_train' in DatasetCatalog\n"
        "import sparsercnn\n"
        "assert {'load', 'Predictor'} <= set(dir(sparsercnn))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr

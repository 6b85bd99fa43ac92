"""Every program ends with one line that names what is wrong, and exit status 2, wherever the error
was raised; tracebacks are for bugs and for --debug."""

import argparse
import errno
import io
import os
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from sparsercnn import __main__ as commands
from sparsercnn.cli import train
from sparsercnn.engine import setup
from sparsercnn.errors import (
    ConfigError,
    DataError,
    parse_arguments,
    run_program,
)
from sparsercnn.extras import require_extra

QUICK = "quickstart/sparsercnn"

# Command line, with {file} a file, {folder} an empty folder and {gone} nothing -> the line.
LINES = [
    ("train --num-gpus 2 --config-file QUICK", "--num-gpus 2 is too many: there are 0 GPUs"),
    ("train --num-gpus -1 --config-file QUICK", "--num-gpus is -1; it must be 0 or more"),
    ("train --num-gpus 0", "No config file was given"),
    ("train --num-gpus 0 --config-file {gone}", "{gone} is neither a file nor the name"),
    ("train --num-gpus 0 --config-file {folder}", "{folder} is neither a file nor the name"),
    ("train --num-gpus 0 --config-file foo://x", "foo://x does not exist"),
    ("train --num-gpus 0 --config-file QUICK OUTPUT_DIR {file}", "OUTPUT_DIR {file} is a file"),
    (
        "train --num-gpus 0 --config-file QUICK OUTPUT_DIR {file}/x",
        "OUTPUT_DIR {file}/x cannot be used: Not a directory",
    ),
    ("train --num-gpus 0 --config-file QUICK OUTPUT_DIR /proc/x", "OUTPUT_DIR /proc/x cannot be"),
    ("train --num-gpus 0 --config-file QUICK MODEL.DEVICE gpu", "MODEL.DEVICE is 'gpu'; it must"),
    (
        "train --num-gpus 0 --config-file QUICK MODEL.DEVICE mps",
        "MODEL.DEVICE is mps, which is not",
    ),
    ("train --num-gpus 1 --config-file QUICK MODEL.DEVICE cuda:0", "no usable GPU"),
    ("train --num-gpus 0 --config-file QUICK SEED", "'SEED' has no key or no value"),
    (
        "train --num-gpus 0 --config-file QUICK MODEL.SparseRCNN.NHEADS 7",
        "NHEADS 7 does not divide HIDDEN_DIM 64",
    ),
    ("eval --num-gpus 0 MODEL.WEIGHTS {gone}", "{gone}"),
    ("predict --input {gone} --opts MODEL.WEIGHTS {gone}", "{gone}"),
    ("predict --input {folder}", "--input names no images"),
    ("export --format onnx --output x.onnx --opts MODEL.WEIGHTS {gone}", "{gone}"),
    ("export --format onnx --output x.onnx --int8", "--int8 and --calibration-images need"),
    ("convert --from torchvision {gone} {folder}/x.pth", "{gone}"),
    ("convert --from torchvision {file} {folder}/x.pth", "{file}"),
    ("analyze --config-file {gone}", "{gone} is neither"),
    ("analyze --config-file QUICK --device gpu", "--device is 'gpu'; it must be cpu, cuda"),
    ("analyze --config-file QUICK --device cuda", "--device is cuda, but PyTorch finds no usable"),
    ("analyze --config-file QUICK --opts SEED x", "SEED is x; it must be a whole number"),
    ("benchmark matcher --device tpu", "--device is 'tpu'; it must be cpu, cuda"),
    ("draw_assignment --config-file {gone} --output x.png", "{gone} is neither"),
    ("draw_attention --input {gone} --config-file {gone} --output x.png", "{gone} is neither"),
    ("sweep status {gone}", "{gone}"),
    ("sweep run {folder}", "{folder}"),
    ("serve --model nonsense", "--model nonsense must be NAME=PATH"),
]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run ``python -m sparsercnn`` in this process: exit status, and what it writes to stderr."""
    monkeypatch.chdir(tmp_path)
    places = {name: str(tmp_path / name) for name in ("file", "folder", "gone")}
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()

    def call(line, expected="", **more):
        words = [word.replace("QUICK", QUICK).format(**places) for word in line.split()]
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        try:
            status = commands.main(words)
        except SystemExit as error:
            status = error.code
        return status, capsys.readouterr().err, expected.format(**places)

    return call


@pytest.mark.parametrize("line,expected", LINES, ids=[line for line, _ in LINES])
def test_a_line_and_status_2(call, line, expected):
    if torch.cuda.is_available() and "GPU" in expected:
        pytest.skip("this machine has GPUs")
    if line.startswith(("serve", "sweep")):
        pytest.importorskip({"serve": "gradio", "sweep": "submitit"}[line.split()[0]])
    status, text, expected = call(line, expected)
    assert status == 2, text
    last = text.splitlines()[-1]
    assert last.startswith("error: ") and expected in last
    assert "Traceback" not in text and text.count("error: ") == 1


@pytest.mark.parametrize("where", [0, 3, 99])
def test_debug_shows_the_traceback_wherever_it_stands(call, where):
    words = ["train", "--num-gpus", "0", "--config-file", "{gone}", "SEED", "1"]
    words.insert(max(where, 1), "--debug")
    status, text, expected = call(" ".join(words), "error: {gone} is neither a file")
    assert status == 2 and "Traceback" in text
    assert text.splitlines()[-1].startswith(expected)


@pytest.mark.parametrize("command", sorted(commands.COMMANDS))
def test_every_program_has_the_option(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit) as end:
        commands.main([command, "--help"])
    assert end.value.code == 0 and "--debug" in capsys.readouterr().out


def test_a_sub_command_lets_the_option_through():
    parser = argparse.ArgumentParser()
    sub = parser.add_subparsers(dest="command").add_parser("run")
    sub.add_argument("--opts", nargs=argparse.REMAINDER)
    args = parse_arguments(parser, ["run", "--opts", "SEED", "--debug", "1"])
    assert args.debug and args.opts == ["SEED", "1"]


LESS_MEMORY = (
    "Training takes less with a smaller SOLVER.IMS_PER_BATCH, SOLVER.AMP.ENABLED or "
    "MODEL.ACTIVATION_CHECKPOINT (docs/training.md), everything with smaller images "
    "(INPUT.MIN_SIZE_TRAIN, MIN_SIZE_TEST)."
)


class Failing(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize(
    "error,line",
    [
        (DataError("a.jpg: mend it"), "error: a.jpg: mend it\n"),
        (ConfigError("a: b\nsparsercnn: c"), "error: a: b sparsercnn: c\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.jpg"),
            "error: a.jpg: No such file or directory. Check the path.\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: No space left on device. Free some space, or choose a folder on another disk "
            "(OUTPUT_DIR).\n",
        ),
        (MemoryError(), f"error: The memory is used up. {LESS_MEMORY}\n"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            f"error: The memory is used up: CUDA out of memory. {LESS_MEMORY}\n",
        ),
        (
            RuntimeError("[fail at a.cpp:1] . DefaultCPUAllocator: can't allocate 9 bytes."),
            f"error: The memory is used up: can't allocate 9 bytes. {LESS_MEMORY}\n",
        ),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_here_or_in_a_data_worker_is_one_line(capsys, error, line, num_workers):
    def program(arguments):
        list(DataLoader(Failing(error), num_workers=num_workers))

    assert run_program(program, argparse.Namespace()) == 2
    assert capsys.readouterr().err == line


def test_a_bug_in_a_data_worker_keeps_its_traceback():
    def program(arguments):
        list(DataLoader(Failing(KeyError("a bug")), num_workers=1))

    with pytest.raises(KeyError, match="Original Traceback"):
        run_program(program, argparse.Namespace())


def _fail(rank):
    raise DataError("a.json: mend it")


def test_an_error_in_one_of_several_processes_is_one_line(capfd):
    def program(arguments):
        torch.multiprocessing.spawn(_fail, nprocs=1)

    assert run_program(program, argparse.Namespace()) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "error: a.json: mend it"


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "start", interrupted)
    assert train.main(["--num-gpus", "0"]) == 130
    line = "Interrupted. --resume continues from the last checkpoint."
    assert capsys.readouterr().err.strip() == line


def test_a_reader_that_has_gone_is_no_error(capsys, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run_program(lambda arguments: print("x"), argparse.Namespace()) == 141
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_said_at_the_start(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(setup.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(ConfigError, match=f"OUTPUT_DIR {tmp_path} cannot be used: No space left"):
        setup._require_writable(str(tmp_path))


def test_a_batch_that_the_processes_cannot_share():
    cfg = setup.get_config(QUICK, ["SOLVER.IMS_PER_BATCH", "3"])
    with pytest.raises(ConfigError, match="IMS_PER_BATCH 3 cannot be shared by 2"):
        setup.check_batch(cfg, 2, "processes")


def test_a_missing_extra_is_an_error_of_the_user(capsys):
    status = run_program(lambda _: require_extra("web", "no_such_module"), argparse.Namespace())
    assert status == 2 and "Install the extra 'web'" in capsys.readouterr().err

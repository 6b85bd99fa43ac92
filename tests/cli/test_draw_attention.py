import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from sparsercnn.cli import draw_attention
from sparsercnn.engine.setup import load_config


@pytest.fixture
def command(repository, tmp_path):
    config = repository / "configs/quickstart/dual_attention.yaml"
    opts = ["MODEL.SparseRCNN.NUM_HEADS", "2", "INPUT.MIN_SIZE_TEST", "64"]
    model = build_model(load_config(str(config), opts, register=False))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return [
        *("--config-file", str(config), "--input", str(tmp_path / "image.png")),
        *("--output", str(tmp_path / "drawn/attention.png"), "--detection", "1"),
        *("--opts", "MODEL.WEIGHTS", str(tmp_path / "weights.pth"), *opts),
    ]


def test_a_picture_is_drawn(command, tmp_path, capsys):
    assert draw_attention.main(command) == 0
    assert "detection 1: " in capsys.readouterr().out
    with Image.open(tmp_path / "drawn/attention.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize(
    "value,message",
    [
        (("--detection", "99"), "no detection 99"),
        (("--input", "nowhere.png"), "nowhere.png"),
        (("--output", "/dev/null/a.png"), "/dev/null"),
    ],
)
def test_errors_are_told_in_a_line(command, capsys, value, message):
    command[command.index(value[0]) + 1] = value[1]
    assert draw_attention.main(command) == 2
    assert message in capsys.readouterr().err

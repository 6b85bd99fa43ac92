import pytest
from PIL import Image

from sparsercnn.cli import draw_batch


def run(squares, *arguments, opts=()):
    config = str(squares / "tiny.yaml")
    output = str(squares / "drawn" / "batch.png")
    return draw_batch.main(
        ["--config-file", config, "--output", output, *arguments, "--opts", "SEED", "1", *opts]
    )


def test_batches_are_drawn_with_their_augmentation(squares, capsys):
    opts = ["INPUT.MOSAIC.ENABLED", "True", "INPUT.MOSAIC.PROB", "1.0"]
    assert run(squares, "--batches", "3", opts=opts) == 0
    assert "6 images; objects that vanished: " in capsys.readouterr().out
    with Image.open(squares / "drawn/batch.png") as picture:
        width, height = picture.size
        assert width < height and min(width, height) > 300  # three rows of two
        assert len(set(picture.convert("RGB").resize((40, 60)).get_flattened_data())) > 5


@pytest.mark.parametrize(
    "arguments,opts,message",
    [
        (("--batches", "0"), (), "--batches is 0"),
        (("--output", "x.txt"), (), "must end with .png or .jpg"),
        ((), ("DATASETS.TRAIN", "()"), "DATASETS.TRAIN is empty"),
    ],
)
def test_errors_are_told_in_a_line(squares, capsys, arguments, opts, message):
    assert run(squares, *arguments, opts=opts) == 2
    assert message in capsys.readouterr().err

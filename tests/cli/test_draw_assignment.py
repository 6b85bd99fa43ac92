import pytest
from PIL import Image

from sparsercnn.cli import draw_assignment


@pytest.fixture
def command(repository, tmp_path):
    return [
        *("--config-file", str(repository / "configs/quickstart/dynamic_sparsercnn.yaml")),
        *("--output", str(tmp_path / "drawn/assignment.png"), "--index", "1"),
        *("--opts", "MODEL.SparseRCNN.NUM_HEADS", "2", "INPUT.MIN_SIZE_TEST", "64"),
    ]


def test_a_picture_is_drawn_of_a_model_before_its_training(command, tmp_path, capsys):
    assert draw_assignment.main(command) == 0
    assert "optimal_transport, positives [" in capsys.readouterr().out
    with Image.open(tmp_path / "drawn/assignment.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 200


@pytest.mark.parametrize(
    "extra,message",
    [
        (("--index", "9999"), "no image 9999"),
        (("--dataset", "coco:missing.json@."), "missing.json"),
        (("--dataset", "nosuch"), "'nosuch' is not registered"),
        (("--dataset", "shapes_sem_seg_val"), "has no objects"),
    ],
)
def test_errors_are_told_in_a_line(command, capsys, extra, message):
    assert draw_assignment.main([*extra, *command[:4], *command[6:]]) == 2
    assert message in capsys.readouterr().err


def test_weights_that_are_not_there(command, capsys):
    assert draw_assignment.main([*command, "MODEL.WEIGHTS", "nowhere.pth"]) == 2
    assert "nowhere.pth" in capsys.readouterr().err

import pickle
from types import SimpleNamespace

import pytest
import torch

from sparsercnn.errors import (
    CheckpointError,
    ConfigError,
    ConversionError,
    DataError,
    ImageError,
    MediaError,
    MissingFileError,
    NonFiniteError,
    SweepError,
    UserError,
    abbreviate,
    run_program,
)

ARGUMENTS = SimpleNamespace(path="x")


@pytest.mark.parametrize("given,status", [(None, 0), (0, 0), (1, 1)])
def test_a_program_that_ends_says_its_status_and_nothing_else(capsys, given, status):
    seen = []
    assert run_program(lambda arguments: seen.append(arguments) or given, ARGUMENTS) == status
    assert seen == [ARGUMENTS]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        UserError("x.yaml: mend it"),
        ConfigError("x.yaml: mend it"),
        SweepError("x.yaml: mend it"),
        DataError("x.yaml: mend it"),
        CheckpointError("x.yaml: mend it", damaged=True),
        ConversionError("x.yaml: mend it", ["a.weight"]),
        ImageError("x.yaml: mend it"),
        MediaError("x.yaml: mend it"),
        NonFiniteError("x.yaml: mend it"),
        OSError("x.yaml: mend it"),
        PermissionError("x.yaml: mend it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_user_can_put_right_is_one_line_on_stderr(capsys, error):
    def program(arguments):
        raise error

    assert run_program(program, ARGUMENTS) == 2
    assert capsys.readouterr() == ("", "error: x.yaml: mend it\n")


def test_a_file_that_is_not_there_is_named(capsys, tmp_path):
    path = tmp_path / "gone.yaml"
    assert run_program(lambda arguments: path.read_text(), ARGUMENTS) == 2
    assert capsys.readouterr().err == f"error: {path}: No such file or directory. Check the path.\n"


@pytest.mark.parametrize("error", [ValueError, KeyError, FloatingPointError])
def test_faults_of_ours_pass_through(error):
    def program(arguments):
        raise error("a fault")

    with pytest.raises(error, match="a fault"):
        run_program(program, ARGUMENTS)


def test_older_callers_find_value_and_floating_point_errors():
    with pytest.raises(ValueError, match="x"):
        raise DataError("x")
    with pytest.raises(FloatingPointError, match="x"):
        raise NonFiniteError("x")


def test_abbreviation_worked_by_hand():
    assert abbreviate([]) == ""
    assert abbreviate([1, 2, 3, 4, 5]) == "1, 2, 3, 4, 5"
    assert abbreviate([1, 2, 3, 4, 5, 6]) == "1, 2, 3, 4, 5, and 1 more"
    assert abbreviate(("a", "b", "c"), limit=1) == "a, and 2 more"
    assert abbreviate("abc", limit=2, separator="; ") == "a; b; and 1 more"


class _Fails(torch.utils.data.Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise KeyError("of the cause")
        except KeyError as cause:
            raise self.error from cause


@pytest.mark.parametrize(
    "error",
    [
        UserError("x.png: mend it"),
        DataError("x.png: two lines\n  one\nMend it."),
        ImageError("x.png: mend it"),
        MissingFileError("x.png: Caught DataError in a trap"),
        CheckpointError("x.pth: mend it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_loading_process_does_not_change_the_message(error):
    loader = torch.utils.data.DataLoader(_Fails(error), num_workers=1)
    with pytest.raises(type(error)) as raised:
        next(iter(loader))
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error) and raised.value.args == (str(error),)
    assert "of the cause" in str(raised.value.__cause__), "the traceback is kept"
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(error)


def test_a_missing_file_can_be_caught_in_two_ways():
    error = MissingFileError("x.json is missing")
    assert isinstance(error, DataError) and isinstance(error, FileNotFoundError)
    assert str(error) == "x.json is missing"
    assert repr(pickle.loads(pickle.dumps(error))) == repr(error)

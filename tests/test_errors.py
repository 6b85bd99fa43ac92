from types import SimpleNamespace

import pytest

from sparsercnn.errors import (
    CheckpointError,
    ConfigError,
    ConversionError,
    DataError,
    ImageError,
    MediaError,
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

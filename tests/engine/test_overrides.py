"""Overrides of a config as a file, a command line and the config itself have them."""

from sparsercnn.engine.overrides import as_argument, flatten, parse_overrides


def test_nested_and_dotted_keys_come_out_alike():
    nested = {"A": {"B": 1, "C.D": {"E": 2}}, "F": [3], "G": {}}
    assert list(flatten(nested)) == [("A.B", 1), ("A.C.D.E", 2), ("F", [3])]


def test_texts_are_values_where_the_config_has_no_text():
    defaults = {"LR": 0.1, "STEPS": (1,), "NAME": "x"}
    overrides = {"LR": "1e-4", "STEPS": "(5, 7)", "NAME": "8", "OTHER": "free text", "N": 3}
    parsed = {"LR": 1e-4, "STEPS": (5, 7), "NAME": "8", "OTHER": "free text", "N": 3}
    assert parse_overrides(overrides, defaults) == parsed


def test_an_argument_is_read_back_as_the_value():
    assert as_argument("free text") == "free text"
    assert as_argument("8") == "'8'"  # not the number
    assert as_argument([1, 2]) == "(1, 2)" and as_argument(1e-5) == "1e-05"

"""Overrides of a config: dotted keys, and values as a file or a command line spells them."""

import ast

from ..config_schema import rows
from ..config_values import as_text
from ..errors import ConfigError

__all__ = ["as_argument", "convert", "differences", "flatten", "parse_overrides"]


def flatten(node, prefix=""):
    """Yield (dotted key, value) of a nested dict or CfgNode: {"A": {"B": 1}} gives ("A.B", 1)."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(then, now):
    """Lines "KEY OLD -> NEW" (list[str]) for what differs between two dicts of dotted keys."""
    keys = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    return [f"{key} {then.get(key)!r} -> {now.get(key)!r}" for key in keys]


def parse_overrides(overrides, defaults):
    """Overrides with the values that texts spell: "(5, 7)" and "1e-4" are text to YAML.

    Args:
        overrides (dict): dotted key -> value.
        defaults (dict): likewise, of the config; where it has a text, a text is meant.
    """
    return {
        key: value if isinstance(defaults.get(key), str) else _parse(value)
        for key, value in overrides.items()
    }


def as_argument(value):
    """The text that a command line needs for a config value."""
    if isinstance(value, str) and _parse(value) is value:
        return value
    # A text that spells a number keeps its quotes: '8' is not 8.
    return repr(tuple(value) if isinstance(value, list) else value)


def convert(key, value):
    """A value, or the text of one, as its key wants it: 0 becomes 0.0 where that is a number.

    Args:
        key (str): dotted; one without a row in the table of keys takes any value as it is.
        value: of YAML or a command line.

    Raises:
        ConfigError: the text is nested too deeply.
    """
    row = rows().get(key)
    parsed = _parse(value)
    if row is None or (isinstance(value, str) and isinstance(parsed, str)):
        return value
    converted = row.allowed.convert(parsed)
    return value if converted is parsed else converted


def _parse(value):
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    except (MemoryError, RecursionError) as error:  # Python's parser has a stack of its own
        raise ConfigError(f"{as_text(value)} is nested too deeply.") from error

"""Errors that a user can correct, and how every program reports them."""

import sys

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ConversionError",
    "DataError",
    "ExportError",
    "ImageError",
    "MediaError",
    "NonFiniteError",
    "ProcessError",
    "SweepError",
    "UserError",
    "abbreviate",
    "run_program",
]


class UserError(ValueError):
    """An error that a user can correct; the message names file, key or value and the remedy."""


class ConfigError(UserError):
    """A config or a command line that cannot be used."""


class SweepError(ConfigError):
    """A sweep's file or folder that cannot be used."""


class DataError(UserError):
    """A data set that cannot be used."""


class CheckpointError(UserError):
    """A file of weights that is missing, damaged, refused, or does not fit the model.

    Attributes:
        damaged (bool): the file is truncated or otherwise broken; an older one may still load.
    """

    def __init__(self, message, damaged=False):
        super().__init__(message)
        self.damaged = damaged


class ConversionError(UserError):
    """Weights that cannot be converted.

    Attributes:
        keys (list[str]): names of these weights.
    """

    def __init__(self, message, keys):
        super().__init__(message)
        self.keys = keys


class ExportError(UserError):
    """A model that cannot be exported, or an exported file that cannot be used."""


class ImageError(UserError):
    """An image file that is missing, damaged, or in no format that can be read."""


class MediaError(UserError):
    """A demo's input or output that cannot be opened."""


class NonFiniteError(UserError, FloatingPointError):
    """A loss or a gradient that is not finite; the message names the images."""


class ProcessError(UserError):
    """A process of a run, or one that loads its data, that was killed, stands still or did not
    come."""


def abbreviate(items, limit=5, separator=", "):
    """Join the first few items for a message, and count the rest.

    Args:
        items (sequence): converted by :func:`str`.
        limit (int): number of items spelled out.
        separator (str): text between items.

    Returns:
        str: such as "a, b, and 3 more".
    """
    shown = separator.join(map(str, items[:limit]))
    return shown if len(items) <= limit else f"{shown}{separator}and {len(items) - limit} more"


def run_program(program, arguments):
    """Run the body of a command-line program, and report a user's error in one line.

    Args:
        program (callable): takes `arguments`, returns the exit status or None for 0.
        arguments (argparse.Namespace): the parsed command line.

    Returns:
        int: exit status; 2 after a :class:`UserError` or an OSError. Other exceptions are bugs of
        the program and keep their traceback.
    """
    try:
        return program(arguments) or 0
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

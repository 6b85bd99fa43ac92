"""What a user can put right, and the one way in which every program says so."""

import sys

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ConversionError",
    "DataError",
    "ImageError",
    "MediaError",
    "NonFiniteError",
    "SweepError",
    "UserError",
    "abbreviate",
    "run_program",
]


class UserError(ValueError):
    """Something that a user can put right; the message names file, key or value and the remedy."""


class ConfigError(UserError):
    """A config, or a command line, that cannot be used."""


class SweepError(ConfigError):
    """A sweep's file, or folder, that cannot be used."""


class DataError(UserError):
    """A data set that cannot be used."""


class CheckpointError(UserError):
    """A file of weights that is missing, damaged, refused, or does not fit the model.

    Attributes:
        damaged (bool): the file is truncated or otherwise broken, so that another may help.
    """

    def __init__(self, message, damaged=False):
        super().__init__(message)
        self.damaged = damaged


class ConversionError(UserError):
    """Weights that cannot be converted.

    Attributes:
        keys (list[str]): their names.
    """

    def __init__(self, message, keys):
        super().__init__(message)
        self.keys = keys


class ImageError(UserError):
    """An image file that is missing, damaged, or in no format that can be read."""


class MediaError(UserError):
    """A demo's input or output that cannot be opened."""


class NonFiniteError(UserError, FloatingPointError):
    """A loss or a gradient that is not finite; the message names the images."""


def abbreviate(items, limit=5, separator=", "):
    """The first few of a list, for a message, and how many more there are.

    Args:
        items (sequence): of what :func:`str` makes readable.
        limit (int): how many are spelled out.
        separator (str): between them.

    Returns:
        str: such as "a, b, and 3 more".
    """
    shown = separator.join(map(str, items[:limit]))
    return shown if len(items) <= limit else f"{shown}{separator}and {len(items) - limit} more"


def run_program(program, arguments):
    """Run the body of a command-line program; what a user can put right ends it in one line.

    Args:
        program (callable): of the arguments, gives the exit status, None for 0.
        arguments (argparse.Namespace): the parsed command line.

    Returns:
        int: exit status; 2 where a :class:`UserError`, or the operating system over a file, ended
        the program. Anything else is a fault of ours, and keeps its traceback.
    """
    try:
        return program(arguments) or 0
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

"""Errors that a user can correct, and how every program reports them."""

import builtins
import contextlib
import errno
import os
import re
import sys
import traceback

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ConversionError",
    "DataError",
    "ExportError",
    "ImageError",
    "MediaError",
    "MissingFileError",
    "NonFiniteError",
    "ProcessError",
    "SweepError",
    "UserError",
    "abbreviate",
    "message_for_user",
    "parse_arguments",
    "run_program",
]

# What a user can do about an error of the operating system.
_REMEDIES = {
    errno.ENOSPC: "Free some space, or choose a folder on another disk (OUTPUT_DIR).",
    errno.EDQUOT: "Free some space, or choose a folder on another disk (OUTPUT_DIR).",
    errno.EACCES: "Change its permissions, or choose another path.",
    errno.EPERM: "Change its permissions, or choose another path.",
    errno.EROFS: "Choose a path that can be written.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "A part of the path is a file; choose another one.",
    errno.EISDIR: "Give a file.",
    errno.EEXIST: "Remove it, or choose another path.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n), or lower DATALOADER.NUM_WORKERS.",
}
_BROKEN_PIPE = 141  # 128 + the number of SIGPIPE, as of a program that the signal ended
_INTERRUPTED = 130  # 128 + the number of SIGINT
# The last line of a traceback as text: "sparsercnn.errors.DataError: message".
_RAISED = re.compile(r"^([\w.]+): ", re.MULTILINE)


class UserError(ValueError):
    """An error that a user can correct; the message names file, key or value and the remedy.

    A loading process hands an exception to the main process as its type and a text with its whole
    traceback, from which PyTorch makes another exception of that type. This one takes its message
    out of the text, so that it reads as it was raised; the text is kept as its cause.
    """

    def __init__(self, message="", *args):
        text = str(message)
        original = _raised_in_worker(type(self), text)
        super().__init__(message if original is None else original, *args)
        if original is not None:
            self.__cause__ = RuntimeError(text)


_IN_WORKER = re.compile(r"Caught \w+ in \w+ worker process \d+\.\nOriginal Traceback ")


def _raised_in_worker(kind, text):
    """The message of an exception of type `kind` in PyTorch's account of it; None: it is none."""
    if not _IN_WORKER.match(text):
        return None
    # The last of a chain of exceptions is the one that was raised.
    _, found, message = text.rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")
    return message.rstrip("\n") if found else None


class ConfigError(UserError):
    """A config or a command line that cannot be used."""


class SweepError(ConfigError):
    """A sweep's file or folder that cannot be used."""


class DataError(UserError):
    """A data set that cannot be used."""


class MissingFileError(DataError, FileNotFoundError):
    """A file or folder of a data set that does not exist."""


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


def parse_arguments(parser, argv=None):
    """Parse a program's command line, which may have ``--debug`` at any place.

    Args:
        parser (argparse.ArgumentParser): of the program.
        argv (list[str]): the arguments; None: those of the process.

    Returns:
        argparse.Namespace: with `debug` (bool), which :func:`run_program` reads.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of any error")
    argv = sys.argv[1:] if argv is None else list(argv)
    # Sub-commands, and options that take the rest of the line, would not let it through.
    args = parser.parse_args([x for x in argv if x != "--debug"])
    args.debug = "--debug" in argv
    return args


def run_program(program, arguments, on_interrupt="Interrupted."):
    """Run the body of a command-line program, and report a user's error in one line.

    An error of the user may also come from a data worker or from one of several processes, in which
    torch writes it, with its traceback, into an exception of this process.

    Args:
        program (callable): takes `arguments`, returns the exit status or None for 0.
        arguments (argparse.Namespace): the parsed command line, see :func:`parse_arguments`.
        on_interrupt (str): the line that is printed after Ctrl-C.

    Returns:
        int: exit status; 2 after a :class:`UserError` or an OSError, 130 after Ctrl-C, 141 if
        nobody reads what is printed. Other exceptions are bugs of the program and keep their
        traceback.
    """
    try:
        status = program(arguments) or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"\n{on_interrupt}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # Python would complain once more when it closes the stream.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        message = message_for_user(error)
        if message is None:
            raise
        if getattr(arguments, "debug", False):
            traceback.print_exception(error)
        print(f"error: {message}", file=sys.stderr)
        return 2


def message_for_user(error):
    """What a program tells of an error that a user can correct.

    Args:
        error (BaseException): of this process; or from another one, with its traceback as text.

    Returns:
        str: one line; None for other errors, which are bugs.
    """
    text = _raised_elsewhere(str(error))
    if text is None:
        text = _about_memory(f"{type(error).__module__}.{type(error).__qualname__}: {error}")
    if text is None:
        if not isinstance(error, UserError | OSError):
            return None
        text = _describe(error) if isinstance(error, OSError) else str(error)
    return " ".join(text.split("\n")) if "\n" in text else text


# What PyTorch and Python call a device or a machine whose memory is used up.
_NO_MEMORY = re.compile(
    r"^(?:[\w.]*MemoryError\b|[\w.]*RuntimeError: .*DefaultCPUAllocator)(?:$|: *)([^.\n]*\.?)",
    re.MULTILINE,
)


def _about_memory(text):
    """The message for "KIND: MESSAGE" of an error, or its traceback; None if it is another one."""
    found = _NO_MEMORY.findall(text)
    if not found:
        return None
    # The last one is the original of an account of another process.
    return (
        f"The memory is used up{f': {found[-1]}' if found[-1] else '.'} Training takes less with a "
        "smaller SOLVER.IMS_PER_BATCH, SOLVER.AMP.ENABLED or MODEL.ACTIVATION_CHECKPOINT "
        "(docs/training.md), everything with smaller images (INPUT.MIN_SIZE_TRAIN, MIN_SIZE_TEST)."
    )


def _raised_elsewhere(text):
    """The message of the user's error whose traceback, from another process, is in `text`."""
    if "Traceback (most recent call last)" not in text:
        return None
    found = list(_RAISED.finditer(text))
    for match in reversed(found):
        module, _, name = match[1].rpartition(".")
        known = globals() if module == __name__ else vars(builtins) if not module else {}
        raised = known.get(name)
        if isinstance(raised, type) and issubclass(raised, UserError | OSError):
            message = text[match.end() :].strip()
            # A second number is that of Windows; the name of the file follows the text.
            number = re.match(r"\[Errno (\d+)\] (.*?)(?:: '(.*)')?$", message, re.DOTALL)
            if number:
                return _describe(OSError(int(number[1]), number[2], number[3]))
            return message
        if raised is not None or (module and name.endswith(("Error", "Exception"))):
            return None  # a bug
    return None


def _describe(error):
    """An OSError by file, problem and remedy, if it has them."""
    if error.strerror is None:
        return str(error)
    files = [str(x) for x in (error.filename, error.filename2) if x is not None]
    where = f"{' -> '.join(files)}: " if files else ""
    remedy = _REMEDIES.get(error.errno)
    return f"{where}{error.strerror}.{f' {remedy}' if remedy else ''}"

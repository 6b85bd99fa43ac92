"""The YAML files in ``configs``, by path or by name.

In a checkout ``sparsercnn/configs`` is a link to the folder at its top; in a wheel it holds the
files.
"""

import difflib
import os
from pathlib import Path

from .errors import ConfigError

__all__ = ["CONFIGS", "config_names", "find_config"]

CONFIGS = (Path(__file__).parent / "configs").resolve()


def config_names():
    """Names of all models in ``configs`` (list[str]), such as "quickstart/sparsercnn"; sorted."""
    paths = (path.relative_to(CONFIGS) for path in CONFIGS.glob("*/*.yaml"))
    return sorted(x.as_posix().removesuffix(".yaml") for x in paths if x.parts[0] != "sweeps")


def find_config(name):
    """Find a YAML file by its path, or one of ``configs`` by its name.

    Args:
        name (str | Path): a file, a URL, or a path relative to ``configs``, with or without
            ".yaml". A file that exists comes first.

    Returns:
        str: path of the file; a URL as it is.

    Raises:
        ConfigError: there is neither; the message has the names nearest to this one.
    """
    name = os.fspath(name)
    if os.path.isfile(name) or "://" in name:
        return name
    for path in (CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return str(path)
    nearest = difflib.get_close_matches(name.removesuffix(".yaml"), config_names(), n=3, cutoff=0.3)
    hint = f" The nearest names are {', '.join(nearest)}." if nearest else ""
    raise ConfigError(f"{name} is neither a file nor the name of a config in {CONFIGS}.{hint}")

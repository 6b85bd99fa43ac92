"""Modules outside of this package that a config names: variants of other people."""

import ast
import importlib
import sys

from ..errors import ConfigError

__all__ = ["add_imported_keys", "import_modules", "imports_of"]

_for_all = []  # names of those that all configs of this process have


def import_modules(names):
    """Import modules, whose keys every config then has.

    Args:
        names (sequence[str]): such as "mypackage.mymodule".

    Raises:
        ConfigError: there is no such module, or it lacks a package; or this is no name of one.
    """
    for name in names:
        _import(name)
        if name not in _for_all:
            _for_all.append(name)


def add_imported_keys(cfg, names=(), source=None):
    """Import modules, and let them and those of :func:`import_modules` add their keys to a config,
    by ``add_config(cfg)``, unless they have.

    Args:
        cfg (CfgNode): the whole config, changed in place; IMPORT is extended.
        names (sequence[str]): modules.
        source (str): the checkpoint that names them, for which nobody vouches: they must have been
            imported before. None: a config, which is trusted to import what it names.

    Raises:
        ConfigError: see :func:`import_modules`; or a checkpoint's module is not imported yet.
    """
    if not isinstance(names, (list, tuple)) or not all(isinstance(x, str) for x in names):
        raise ConfigError(
            f"IMPORT is {names!r}; it must be a list of modules, such as ['mypackage.mymodule']."
        )
    strange = [name for name in names if name not in sys.modules]
    if source is not None and strange:
        raise ConfigError(
            f"{source} was trained with code that is not part of this package, and is not run on "
            f"the word of a file. If you trust it: --import {' --import '.join(strange)} (in "
            f"Python: import {', '.join(strange)})."
        )
    for name in [*_for_all, *names]:
        if name in cfg.IMPORT:
            continue
        module = _import(name)
        cfg.IMPORT = [*cfg.IMPORT, name]
        if hasattr(module, "add_config"):
            module.add_config(cfg)


def _import(name):
    if name.endswith(".py") or "/" in name:
        raise ConfigError(
            f"IMPORT: '{name}' is a file; give the name of the module, such as mypackage.mymodule, "
            "and its folder in the environment variable PYTHONPATH."
        )
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(
            f"IMPORT: {name!r} is not the name of a module; give one such as mypackage.mymodule."
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"IMPORT: the module '{name}' needs '{error.name}'.") from error
        raise ConfigError(
            f"IMPORT: there is no module '{name}'. Install its package, or name its folder in the "
            "environment variable PYTHONPATH."
        ) from error


def imports_of(opts):
    """Modules (list) that KEY VALUE pairs name by IMPORT."""
    value = dict(zip(opts[::2], opts[1::2], strict=False)).get("IMPORT")
    if value is None:
        return []
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return [value]

"""Merge YAML and overrides into a config, with errors that name the file and the nearest key."""

import difflib
import logging
import re

import yaml
from detectron2.config import CfgNode

from ..config_files import find_config
from ..errors import ConfigError, abbreviate
from .imports import add_imported_keys

__all__ = ["merge_file", "merge_opts", "merge_text"]

# Sections on which the results of a trained model depend, and which data it is evaluated on.
_DECIDING = ("MODEL", "INPUT", "TEST", "DATASETS")


def merge_file(cfg, config_file, allow_unsafe):
    """Merge a YAML file with its bases.

    Args:
        cfg (CfgNode): the whole config, changed in place.
        config_file (str | Path): the file, or its name in ``configs``.
        allow_unsafe (bool): let Python tags run code.

    Raises:
        ConfigError: see :func:`~sparsercnn.engine.setup.load_config`.
    """
    if not config_file:
        raise ConfigError("No config file was given; use --config-file FILE.")
    if str(config_file).endswith(".py"):
        raise ConfigError(
            f"{config_file} is a LazyConfig, a Python program, and is refused: a config here is "
            "data, which can be checked, overridden by key and kept in checkpoints without running "
            "code. Write its settings in YAML; code of your own belongs in a module that the key "
            "IMPORT names (docs/own_models.md)."
        )
    config_file = find_config(config_file)
    try:
        content = cfg.load_yaml_with_base(config_file, allow_unsafe=allow_unsafe)
        add_imported_keys(cfg, content.get("IMPORT", ()))
        cfg.merge_from_file(config_file, allow_unsafe=allow_unsafe)
    except yaml.constructor.ConstructorError as error:
        # The mark names the file that holds the tag, which may be a _BASE_ of config_file.
        raise ConfigError(
            f"{_position(error, config_file)} is refused: {error.problem}. A Python tag can run "
            "code on this machine. If you trust the author of the file, use --allow-unsafe."
        ) from error
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{_position(error, config_file)}: invalid YAML: {problem}.") from error
    except OSError as error:
        raise ConfigError(f"{config_file} or one of its _BASE_ cannot be read: {error}.") from error
    except RecursionError as error:
        raise ConfigError(f"{config_file}: its _BASE_ refers back to this file.") from error
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            f"{config_file} or one of its _BASE_ is not a mapping of keys to values: {error}."
        ) from error
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"{config_file}: {_explain(cfg, error)}") from error


def merge_text(cfg, text, source):
    """Merge the config that a checkpoint holds, which nobody vouches for.

    Keys outside MODEL, INPUT, TEST and DATASETS that do not exist here, such as those of another
    version of detectron2, have no effect on results and are left out.

    Args:
        cfg (CfgNode): the whole config, changed in place.
        text (str): YAML, without ``_BASE_``.
        source (str): the checkpoint, for messages.

    Raises:
        ConfigError: it is no YAML or has Python tags; a key does not exist or its value has the
            wrong type; or MODEL.LOAD_PROPOSALS, which reads pickles, is on.
    """
    advice = "Give the config that it was trained with by --config-file (config_file=...)."
    try:
        content = yaml.safe_load(text)
        if not isinstance(content, dict):
            raise ValueError("it is not a mapping of keys to values")
        add_imported_keys(cfg, content.get("IMPORT", ()), source)
        unknown = list(_take_unknown(content, cfg))
        if unknown:
            logging.getLogger(__name__).info(f"Left out of the config: {abbreviate(unknown)}.")
        cfg.merge_from_other_cfg(CfgNode(content))
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise ConfigError(f"The config in {source} cannot be read: {error}. {advice}") from error
    except (KeyError, ValueError, AssertionError) as error:
        problem = _explain(cfg, error).rstrip(".")
        raise ConfigError(f"The config in {source} is refused: {problem}. {advice}") from error
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ConfigError(
            f"The config in {source} is refused: with MODEL.LOAD_PROPOSALS True, evaluation reads "
            f"pickled proposals, which can run code. {advice}"
        )


def _take_unknown(content, known, prefix=""):
    """Remove from a nested dict, and yield, the dotted keys that `known` lacks."""
    for key in list(content):
        if not prefix and key in _DECIDING:
            continue
        if key not in known:
            del content[key]
            yield f"{prefix}{key}"
        elif isinstance(content[key], dict) and isinstance(known[key], dict):
            yield from _take_unknown(content[key], known[key], f"{prefix}{key}.")


def _position(error, config_file):
    mark = getattr(error, "problem_mark", None)
    return f"{mark.name}, line {mark.line + 1}" if mark else config_file


def merge_opts(cfg, opts):
    """Merge KEY VALUE pairs (list[str], flattened) into `cfg`, in place.

    Raises:
        ConfigError: see :func:`~sparsercnn.engine.setup.load_config`.
    """
    flags = [x for x in opts[::2] if x.startswith("-")]
    if flags:
        raise ConfigError(
            f"{flags[0]} must come before the KEY VALUE pairs, which are last on the command line."
        )
    if len(opts) % 2:
        raise ConfigError(
            f"Overrides must be KEY VALUE pairs; '{opts[-1]}' has no key or no value."
        )
    try:
        cfg.merge_from_list(opts)
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"Override: {_explain(cfg, error)}") from error


def _explain(cfg, error):
    """The message of yacs; for an unknown key, with the nearest known ones."""
    message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    unknown = re.search(r"Non-existent (?:config )?key: (.+)", message)
    if not unknown:
        return message
    key = unknown[1]
    nearest = _nearest(key, list(_keys(cfg)))
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    return f"there is no key {key}.{hint}"


def _nearest(key, known):
    by_lowercase = {x.lower(): x for x in known}
    if key.lower() in by_lowercase:
        return [by_lowercase[key.lower()]]
    last = key.lower().rpartition(".")[2]
    in_other_places = [x for x in by_lowercase if x.rpartition(".")[2] == last]
    if in_other_places:
        found = difflib.get_close_matches(key.lower(), in_other_places, n=4, cutoff=0)
    else:
        found = difflib.get_close_matches(key.lower(), by_lowercase, n=1)
    return [by_lowercase[x] for x in found]


def _keys(node, prefix=""):
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")

"""Merge YAML and overrides into a config, with errors that name the file and the nearest key."""

import difflib
import logging
import os
import re

from detectron2.config import CfgNode, downgrade_config, upgrade_config
from detectron2.config.compat import guess_version
from fvcore.common.config import BASE_KEY

from ..config_files import find_config
from ..config_schema import rows
from ..config_values import as_text
from ..errors import ConfigError, abbreviate
from ..yaml_files import parse_yaml, read_yaml
from .imports import add_imported_keys
from .overrides import convert

__all__ = ["merge_file", "merge_opts", "merge_text"]

# Sections on which the results of a trained model depend, and which data it is evaluated on.
_DECIDING = ("MODEL", "INPUT", "TEST", "DATASETS")
_MAX_BASES = 20
# What yacs says of a value of the wrong type.
_MISMATCH = r"Type mismatch \(.*\) with values \(.* vs\. (.*)\) for config key: (\S+)"


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
    content = _read_with_bases(config_file, allow_unsafe)
    try:
        add_imported_keys(cfg, content.get("IMPORT", ()))
        _merge_content(cfg, content, config_file)
    except (KeyError, ValueError, AssertionError, AttributeError) as error:
        raise ConfigError(f"{config_file}: {_explain(cfg, error)}") from error


def _read_with_bases(path, allow_unsafe, chain=()):
    """The mapping in a YAML file, over those of its `_BASE_`, one path or a list of them."""
    if path in chain:
        raise ConfigError(f"{chain[0]}: its _BASE_ refers back to this file, by {path}.")
    if len(chain) > _MAX_BASES:
        raise ConfigError(f"{chain[0]} has more than {_MAX_BASES} bases, one over the other.")
    content = read_yaml(path, allow_unsafe)
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} is not a mapping of keys to values, such as 'SOLVER: {{MAX_ITER: 1000}}'."
        )
    bases = content.pop(BASE_KEY, [])
    bases = bases if isinstance(bases, list) else [bases]
    if len(bases) > _MAX_BASES or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: _BASE_ must be the path of a YAML file, or a list of some.")
    merged = {}
    for base in bases:
        base = os.path.expanduser(base)
        if "://" not in base:
            base = os.path.join(os.path.dirname(path), base)
            if not os.path.isfile(base):
                raise ConfigError(f"{path}: its _BASE_ {base} is no file.")
        _merge_mapping(_read_with_bases(base, allow_unsafe, (*chain, path)), merged, path)
    _merge_mapping(content, merged, path)
    return merged


def _merge_mapping(content, merged, path):
    for key, value in content.items():
        if isinstance(value, dict) and key in merged:
            if not isinstance(merged[key], dict):
                raise ConfigError(f"{path}: {key} is a mapping, in its _BASE_ a value.")
            _merge_mapping(value, merged[key], path)
        else:
            merged[key] = value


def _merge_content(cfg, content, source):
    """Merge a nested dict, as detectron2 merges a file, of an older version too."""
    _require_mapping_of_text(content)
    content = CfgNode(_convert(content))
    version = content.get("VERSION", None) or guess_version(content, source)
    if version == cfg.VERSION:
        cfg.merge_from_other_cfg(content)
        return
    if version != 1:
        raise ValueError(_refusal("VERSION", as_text(version)))
    old = downgrade_config(cfg, to_version=version)
    old.merge_from_other_cfg(content)
    new = upgrade_config(old)
    cfg.clear()
    cfg.update(new)


def _require_mapping_of_text(content, prefix=""):
    for key, value in content.items():
        if not isinstance(key, str):
            raise ValueError(
                f"the key {as_text(key)} {f'in {prefix} ' if prefix else ''}is no text"
            )
        if isinstance(value, dict):
            _require_mapping_of_text(value, f"{prefix}.{key}" if prefix else key)


def _convert(content, prefix=""):
    """A nested dict with numbers of the type that their keys want: 0 for 0.0."""
    return {
        key: _convert(value, f"{prefix}{key}.")
        if isinstance(value, dict)
        else convert(f"{prefix}{key}", value)
        for key, value in content.items()
    }


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
        if not isinstance(text, str):
            raise ConfigError("it is no text")
        content = parse_yaml(text, f"config in {source}")
    except ConfigError as error:
        problem = str(error).rstrip(".")
        raise ConfigError(f"The config in {source} cannot be read: {problem}. {advice}") from error
    try:
        if not isinstance(content, dict):
            raise ValueError("it is not a mapping of keys to values")
        _require_mapping_of_text(content)
        add_imported_keys(cfg, content.get("IMPORT", ()), source)
        unknown = list(_take_unknown(content, cfg))
        if unknown:
            logging.getLogger(__name__).info(f"Left out of the config: {abbreviate(unknown)}.")
        cfg.merge_from_other_cfg(CfgNode(_convert(content)))
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
    keys, values = opts[::2], opts[1::2]
    known = set(_keys(cfg))
    for key in keys:
        if not (key in known or cfg.key_is_deprecated(key) or cfg.key_is_renamed(key)):
            raise ConfigError(f"Override: {_no_such_key(cfg, key)}")
    opts = [x for key, value in zip(keys, values, strict=True) for x in (key, convert(key, value))]
    try:
        cfg.merge_from_list(opts)
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"Override: {_explain(cfg, error)}") from error


def _explain(cfg, error):
    """The message of yacs; for an unknown key, with the nearest known ones, and for a value of the
    wrong type with what the key takes."""
    message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    mismatch = re.fullmatch(_MISMATCH, message, re.DOTALL)
    if mismatch:
        value, key = mismatch.groups()
        return _refusal(key, value)
    unknown = re.search(r"Non-existent (?:config )?key: (.+)", message)
    return _no_such_key(cfg, unknown[1]) if unknown else message


def _no_such_key(cfg, key):
    nearest = _nearest(key, list(_keys(cfg)))
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    return f"there is no key {key}.{hint}"


def _refusal(key, value):
    row = rows().get(key)
    allowed = row.allowed.allowed if row else "a value of the type of its default"
    if not value.isprintable():
        value = as_text(value)
    value = value if len(value) <= 60 else f"{value[:57]}..."
    return f"{key} is {value}; it must be {allowed}."


def _nearest(key, known):
    by_lowercase = {x.lower(): x for x in known}
    if key.lower() in by_lowercase:
        return [by_lowercase[key.lower()]]
    last = key.lower().rpartition(".")[2]
    in_other_places = [x for x in by_lowercase if x.rpartition(".")[2] == last]
    found = difflib.get_close_matches(key.lower(), by_lowercase, n=1)
    found += difflib.get_close_matches(key.lower(), in_other_places, n=4, cutoff=0)
    return [by_lowercase[x] for x in dict.fromkeys(found)][:4]


def _keys(node, prefix=""):
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")

"""Read a sweep's YAML file, and refuse what could not be run."""

import difflib
import itertools
import math
from dataclasses import fields
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ..config_files import CONFIGS
from ..config_values import as_text
from ..engine.overrides import as_argument, flatten, parse_overrides
from ..engine.setup import load_config
from ..errors import ConfigError, SweepError
from ..yaml_files import read_yaml
from .spec import Sweep, Variant, folder_name

__all__ = ["load_sweep"]

# The sweep sets these itself, for each run.
_RESERVED = {"SEED": "seeds", "OUTPUT_DIR": "output"}
_MAX_VARIANTS = 1000  # whose configs are all checked
_MAX_RUNS = 10_000
_MAX_SEEDS = 1000
# These name other things in a sweep's folder, or no folder at all.
_NOT_FOR_VARIANTS = ("", ".", "..", "report", "submitit")


def load_sweep(file, opts=(), output=None, only=(), **resources):
    """Read a sweep's YAML file and check the config of every variant.

    Args:
        file (str): the YAML file, or the name of one in ``configs``, such as "sweeps/dynamic"; see
            docs/sweeps.md.
        opts (sequence[str]): KEY VALUE pairs, flattened; not for keys that variants set.
        output (str): replaces the file's.
        only (sequence[str]): names of variants; the others are left out. () for none.
        resources: replace the file's, those that are not None; see :class:`Resources`.

    Raises:
        SweepError: the file cannot be read, has unknown keys, or a config refuses an override.
    """
    try:
        return _load(_find(file), opts, output, only, resources)
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise SweepError(f"The sweep {file} cannot be used: {problem}") from error


def _load(file, opts, output, only, resources):
    sweep = _read(file, resources)
    for path in (file, output or sweep.output or ""):
        if not str(path).isprintable():  # it would be a line of SLURM's script
            raise ValueError(f"the path {as_text(str(path))} has control characters; rename it.")
    sweep.file, sweep.base = file, file.parent / sweep.base
    sweep.title = sweep.title or file.stem
    sweep.output = Path(output or sweep.output or f"output/sweeps/{file.stem}").absolute()
    if not sweep.base.is_file():
        raise ValueError(f"base, {sweep.base}, does not exist. It is relative to the sweep's file.")
    if sweep.axes:
        sweep.axes, sweep.variants = _grid(sweep.axes)
    else:
        sweep.axes, listed = {}, sweep.variants.items()
        sweep.variants = [Variant(str(name), _overrides(name, values)) for name, values in listed]
    _check_folders(sweep.variants)
    number = len(sweep.variants) * len(sweep.seeds)
    if len(sweep.variants) > _MAX_VARIANTS or number > _MAX_RUNS:
        raise ValueError(
            f"{len(sweep.variants):,} variants with {len(sweep.seeds):,} seeds are {number:,} "
            f"runs; a sweep has at most {_MAX_VARIANTS:,} variants and {_MAX_RUNS:,} runs."
        )
    names = sweep.names
    sweep.baseline = names[0] if sweep.baseline is None else sweep.baseline
    for name in (sweep.baseline, *only):
        if name not in names:
            raise ValueError(f"there is no variant '{name}'.{_did_you_mean(name, names)}")
    sweep.overrides = _overrides("overrides", sweep.overrides)
    sweep.overrides |= _from_command_line(opts, sweep.variants)
    defaults = dict(flatten(load_config(str(sweep.base), register=False)))
    for overrides in (sweep.overrides, *(variant.overrides for variant in sweep.variants)):
        overrides.update(parse_overrides(overrides, defaults))
    sweep.variants = [v for v in sweep.variants if not only or v.name in only]
    for variant in sweep.variants:
        try:
            sweep.run(variant).load_config()
        except ConfigError as error:
            raise ValueError(f"variant '{variant.name}': {error}") from error
    return sweep


def _find(file):
    # A wheel has the files, but nobody knows where.
    named = [CONFIGS / file, CONFIGS / f"{file}.yaml"]
    return next((path for path in (Path(file), *named) if path.is_file()), Path(file))


def _read(file, flags):
    """The file's content as a Sweep, with resources from the command line."""
    content = read_yaml(file, allow_unsafe=None)
    if not isinstance(content, dict):
        raise ValueError("it must have keys with values, such as 'base: config.yaml'.")
    # OmegaConf takes a millisecond for each.
    if isinstance(content.get("seeds"), list) and len(content["seeds"]) > _MAX_SEEDS:
        raise ValueError(
            f"there are {len(content['seeds']):,} seeds; at most {_MAX_SEEDS:,} may be."
        )
    content["resources"] = content.get("resources") or {}  # the key may have nothing after it
    flags = {key: value for key, value in flags.items() if value is not None}
    config = OmegaConf.structured(Sweep)
    try:
        for key, value in (*content.items(), ("resources", flags)):
            config = OmegaConf.merge(config, {key: value})
        return OmegaConf.to_object(config)
    except ConfigKeyError as error:
        hint = _did_you_mean(error.key, [field.name for field in fields(error.object_type)])
        raise ValueError(f"there is no key '{error.full_key}'.{hint}") from error
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key or key}: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ValueError(f"{key} refers to itself.") from error


def _did_you_mean(word, known):
    """The end of a message about an unknown name."""
    nearest = difflib.get_close_matches(str(word), known, n=1)
    return f" Did you mean {nearest[0]}?" if nearest else f" There are: {', '.join(known)}."


def _grid(axes):
    """Names of levels by axis, and a variant for each combination of levels.

    {"A.HEADS": [2, 4], "matcher": {"one": {}, "many": {"A.K": 3}}} gives the levels
    {"A.HEADS": ["HEADS=2", "HEADS=4"], "matcher": ["one", "many"]} and the variants "HEADS=2+one",
    "HEADS=2+many", "HEADS=4+one" and "HEADS=4+many", whose overrides are {"A.HEADS": 4, "A.K": 3}.
    """
    axes = {str(axis): _levels(str(axis), value) for axis, value in axes.items()}
    axis_of = {}
    for axis, levels in axes.items():
        for key in {key for overrides in levels.values() for key in overrides}:
            if axis_of.setdefault(key, axis) != axis:
                raise ValueError(f"the axes {axis_of[key]} and {axis} both set {key}.")
    number = math.prod(map(len, axes.values()))
    if number > _MAX_VARIANTS:
        raise ValueError(
            f"the axes cross to {number:,} variants; a sweep has at most {_MAX_VARIANTS:,}. Leave "
            "out levels, or write several sweeps."
        )
    variants = []
    for names in itertools.product(*axes.values()):
        chosen = dict(zip(axes, names, strict=True))
        overrides = [pair for axis, name in chosen.items() for pair in axes[axis][name].items()]
        variants.append(Variant("+".join(names), dict(overrides), chosen))
    return {axis: list(levels) for axis, levels in axes.items()}, variants


def _levels(axis, value):
    """Overrides by the level's name: from a list of a key's values, or as the file names them."""
    if isinstance(value, dict) and value:
        return {str(name): _overrides(f"{axis}.{name}", x) for name, x in value.items()}
    if not isinstance(value, list) or not value:
        what = "a list of a config key's values, or a mapping of names to overrides"
        raise ValueError(f"the axis {axis} must be {what}.")
    texts = [x if isinstance(x, str) else as_argument(x) for x in value]
    if len(set(texts)) < len(texts):
        raise ValueError(f"the axis {axis} has a value twice: {value}.")
    names = [f"{axis.rpartition('.')[2]}={text}" for text in texts]
    overrides = [_overrides(f"the axis {axis}", {axis: x}) for x in value]
    return dict(zip(names, overrides, strict=True))


def _overrides(name, overrides):
    """Values by dotted key, whether the file has them so or nested as in a config."""
    if not isinstance(overrides, dict | None):
        raise ValueError(f"{name} must be a mapping of config keys to values, or {{}}.")
    values = {}
    for key, value in flatten(overrides or {}):
        if key in _RESERVED:
            raise ValueError(f"{name} sets {key}; that is what '{_RESERVED[key]}' is for.")
        if key in values:
            raise ValueError(f"{name} sets {key} twice.")
        values[key] = value
    return values


def _from_command_line(opts, variants):
    """Overrides that no variant would hide."""
    if len(opts) % 2:
        raise ValueError(f"overrides are pairs of KEY VALUE; '{opts[-1]}' has no partner.")
    overrides = _overrides("--opts", dict(zip(opts[::2], opts[1::2], strict=True)))
    for variant in variants:
        for key in overrides.keys() & variant.overrides.keys():
            raise ValueError(f"{key} cannot be overridden: variant '{variant.name}' sets it.")
    return overrides


def _check_folders(variants):
    folders = {}
    for variant in variants:
        folder = folder_name(variant.name)
        if folder in _NOT_FOR_VARIANTS or len(folder) > 255:
            hint = "Name the levels: an axis may be a mapping of names to overrides."
            raise ValueError(f"'{variant.name}' cannot be the name of a folder. {hint}")
        if folder in folders:
            raise ValueError(f"'{folders[folder]}' and '{variant.name}' would share a folder.")
        folders[folder] = variant.name

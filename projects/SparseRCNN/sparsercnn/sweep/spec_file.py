"""Read a sweep's YAML file, and refuse what could not be run."""

import ast
import dataclasses
import difflib
import itertools
from pathlib import Path

import yaml

from ..engine.setup import ConfigError
from .spec import Resources, Sweep, SweepError, Variant, as_argument, folder_name

__all__ = ["load_sweep"]

# The sweep sets these itself, for each run.
_RESERVED = {"SEED": "seeds", "OUTPUT_DIR": "output"}


def load_sweep(file, opts=(), output=None, only=(), **resources):
    """Read a sweep's YAML file and check the config of every variant.

    Args:
        file (str): the YAML file; see docs/sweeps.md.
        opts (sequence[str]): KEY VALUE pairs, flattened, which override the file's `overrides`.
        output (str): replaces the file's.
        only (sequence[str]): names of variants; the others are left out. () for none.
        resources: replace the file's, those that are not None; see :class:`Resources`.

    Returns:
        Sweep:

    Raises:
        SweepError: the file cannot be read, has unknown keys, or a config refuses an override.
    """
    file = Path(file)
    content = _read(file)
    _check_keys(file, content)
    axes, variants = _variants(file, content)
    names = [variant.name for variant in variants]
    for name in only:
        if name not in names:
            raise SweepError(f"{file}: there is no variant '{name}'.{_did_you_mean(name, names)}")
    if only:
        variants = [variant for variant in variants if variant.name in only]
        names = [variant.name for variant in variants]
    baseline = str(content.get("baseline", names[0]))
    if baseline not in names:
        raise SweepError(f"{file}: baseline '{baseline}' is none of: {', '.join(names)}.")
    seeds = content.get("seeds", [0])
    if not (isinstance(seeds, list) and seeds and all(_is_seed(s) for s in seeds)):
        raise SweepError(f"{file}: seeds must be a list of whole numbers from 0: [0, 1, 2].")
    if len(set(seeds)) < len(seeds):
        raise SweepError(f"{file}: seeds has a number twice: {seeds}.")
    if len(opts) % 2:
        raise SweepError(f"Overrides are pairs of KEY VALUE; '{opts[-1]}' has no partner.")
    sweep = Sweep(
        file=file,
        title=content.get("title", file.stem),
        base=file.parent / content["base"],
        output=Path(output or content.get("output", f"output/sweeps/{file.stem}")).absolute(),
        metric=content.get("metric", "bbox/AP"),
        variants=tuple(variants),
        axes=axes,
        seeds=tuple(seeds),
        baseline=baseline,
        overrides={
            **_flatten(file, "overrides", content.get("overrides")),
            **dict(zip(opts[::2], map(_as_value, opts[1::2]), strict=True)),
        },
        resources=_resources(file, content.get("resources") or {}, resources),
    )
    _check_configs(sweep)
    return sweep


def _read(file):
    try:
        with open(file, encoding="utf-8") as stream:
            content = yaml.safe_load(stream)
    except OSError as error:
        raise SweepError(f"The sweep {file} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise SweepError(f"{file} is not YAML: {error}.") from error
    if not isinstance(content, dict):
        raise SweepError(f"{file} is no mapping of keys to values.")
    return content


_KEYS = ("axes", "base", "baseline", "metric", "output", "overrides", "resources", "seeds")
_KEYS += ("title", "variants")


def _check_keys(file, content):
    for key in content:
        if key not in _KEYS:
            raise SweepError(f"{file}: there is no key '{key}'.{_did_you_mean(key, _KEYS)}")
    if "base" not in content:
        raise SweepError(f"{file}: 'base' is missing, the config that the runs start from.")
    if ("axes" in content) == ("variants" in content):
        raise SweepError(
            f"{file}: give either 'axes', all of whose levels are crossed, or 'variants'."
        )
    base = file.parent / content["base"]
    if not base.is_file():
        raise SweepError(
            f"{file}: base, {base}, does not exist. It is relative to the sweep's file."
        )


def _did_you_mean(word, known):
    nearest = difflib.get_close_matches(str(word), known, n=1)
    return f" Did you mean {nearest[0]}?" if nearest else f" There are: {', '.join(known)}."


def _is_seed(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _resources(file, content, flags):
    known = {f.name: f for f in dataclasses.fields(Resources)}
    for key in content:
        if key not in known:
            raise SweepError(f"{file}: resources has no '{key}'.{_did_you_mean(key, list(known))}")
    resources = Resources(**{**content, **{k: v for k, v in flags.items() if v is not None}})
    if resources.cluster not in ("local", "slurm"):
        raise SweepError(f"{file}: cluster is '{resources.cluster}'; it must be local or slurm.")
    at_least = {"parallel": 1, "gpus": 0, "nodes": 1, "cpus": 1}
    for key, least in at_least.items():
        value = getattr(resources, key)
        if not isinstance(value, int) or value < least:
            raise SweepError(f"{file}: {key} is {value}; it must be a whole number from {least}.")
    if resources.cluster == "local" and resources.nodes > 1:
        raise SweepError(f"{file}: nodes is {resources.nodes}; more than one needs cluster slurm.")
    return resources


def _variants(file, content):
    """Names of levels by axis, and the variants."""
    if "variants" in content:
        listed = _mapping(file, "variants", content["variants"])
        variants = [Variant(str(n), _flatten(file, n, o)) for n, o in listed.items()]
        axes = {}
    else:
        levels = {
            str(axis): _levels(file, str(axis), value)
            for axis, value in _mapping(file, "axes", content["axes"]).items()
        }
        axes = {axis: list(values) for axis, values in levels.items()}
        variants = [
            _cross(dict(zip(levels, names, strict=True)), levels)
            for names in itertools.product(*levels.values())
        ]
    folders = {}
    for variant in variants:
        other = folders.setdefault(folder_name(variant.name), variant.name)
        if other != variant.name or [v.name for v in variants].count(variant.name) > 1:
            raise SweepError(f"{file}: '{other}' and '{variant.name}' would share a folder.")
    return axes, variants


def _mapping(file, key, value):
    if not isinstance(value, dict) or not value:
        raise SweepError(f"{file}: {key} must be a mapping with at least one entry.")
    return value


def _levels(file, axis, value):
    """Overrides by level's name: of a list of values of a key, or as the file names them."""
    if isinstance(value, list) and value:
        short = axis.rpartition(".")[2]
        return {f"{short}={as_argument(x)}": {axis: x} for x in value}
    if isinstance(value, dict) and value:
        return {str(name): _flatten(file, f"{axis}.{name}", o) for name, o in value.items()}
    raise SweepError(
        f"{file}: the axis {axis} must be a list of a config key's values, or a mapping of names "
        "to overrides."
    )


def _cross(names, levels):
    overrides = {}
    for axis, name in names.items():
        overrides.update(levels[axis][name])
    return Variant("+".join(names.values()), overrides, names)


def _flatten(file, name, overrides, prefix=""):
    """Dotted keys, whether the file has them so or nested as in a config."""
    if overrides is None:
        return {}
    if not isinstance(overrides, dict):
        raise SweepError(f"{file}: {name} must be a mapping of config keys to values, or {{}}.")
    flat = {}
    for key, value in overrides.items():
        path = f"{prefix}{key}"
        if path in _RESERVED:
            raise SweepError(
                f"{file}: {name} sets {path}; that is what '{_RESERVED[path]}' is for."
            )
        if isinstance(value, dict):
            flat.update(_flatten(file, name, value, f"{path}."))
        else:
            flat[path] = value
    return flat


def _as_value(argument):
    """The inverse of :func:`as_argument`."""
    try:
        return ast.literal_eval(argument)
    except (ValueError, SyntaxError):
        return argument


def _check_configs(sweep):
    for variant in sweep.variants:
        run = sweep.run(variant, sweep.seeds[0])
        try:
            run.load_config()
        except ConfigError as error:
            raise SweepError(f"{sweep.file}, variant '{variant.name}': {error}") from error

"""Read a sweep's YAML file, and refuse what could not be run."""

import ast
import dataclasses
import itertools
from pathlib import Path

import yaml

from ..engine.setup import ConfigError, load_config
from .resources import did_you_mean, read_resources
from .spec import Sweep, SweepError, Variant, as_argument, folder_name

__all__ = ["load_sweep"]

# The sweep sets these itself, for each run.
_RESERVED = {"SEED": "seeds", "OUTPUT_DIR": "output"}
# Not for variants: other things lie under these names in a sweep's folder, or they are none.
_NO_FOLDERS = ("", ".", "..", "report", "submitit")


def load_sweep(file, opts=(), output=None, only=(), **resources):
    """Read a sweep's YAML file and check the config of every variant.

    Args:
        file (str): the YAML file; see docs/sweeps.md.
        opts (sequence[str]): KEY VALUE pairs, flattened, which override the file's `overrides`;
            not for keys that variants set.
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
            raise SweepError(f"{file}: there is no variant '{name}'.{did_you_mean(name, names)}")
    baseline = str(content.get("baseline", names[0]))
    if baseline not in names:
        raise SweepError(f"{file}: baseline '{baseline}' is none of: {', '.join(names)}.")
    seeds = content.get("seeds", [0])
    if not (isinstance(seeds, list) and seeds and all(_is_seed(s) for s in seeds)):
        raise SweepError(f"{file}: seeds must be a list of whole numbers from 0: [0, 1, 2].")
    if len(set(seeds)) < len(seeds):
        raise SweepError(f"{file}: seeds has a number twice: {seeds}.")
    from_command_line = _pairs(opts, variants)
    if only:
        variants = [variant for variant in variants if variant.name in only]
    sweep = Sweep(
        file=file,
        title=content.get("title") or file.stem,
        base=file.parent / content["base"],
        output=Path(output or content.get("output", f"output/sweeps/{file.stem}")).absolute(),
        metric=content.get("metric", "bbox/AP"),
        variants=tuple(variants),
        axes=axes,
        seeds=tuple(seeds),
        baseline=baseline,
        overrides={
            **_flatten(file, "overrides", content.get("overrides")),
            **from_command_line,
        },
        resources=read_resources(file, content.get("resources") or {}, resources),
    )
    sweep = _with_types(sweep)
    _check_configs(sweep)
    return sweep


def _read(file):
    try:
        with open(file, encoding="utf-8") as stream:
            content = yaml.load(stream, Loader=_UniqueKeyLoader)
    except OSError as error:
        raise SweepError(f"The sweep {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SweepError(f"The sweep {file} is no text in UTF-8.") from error
    except yaml.YAMLError as error:
        raise SweepError(f"{file} is not YAML: {error}.") from error
    if not isinstance(content, dict):
        raise SweepError(f"{file} is no mapping of keys to values.")
    return content


class _UniqueKeyLoader(yaml.SafeLoader):
    """Of two equal keys YAML's loader would keep the last and say nothing."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_KEYS = ("axes", "base", "baseline", "metric", "output", "overrides", "resources", "seeds")
_KEYS += ("title", "variants")
_TEXTS = ("base", "metric", "output", "title")


def _check_keys(file, content):
    for key in content:
        if key not in _KEYS:
            raise SweepError(f"{file}: there is no key '{key}'.{did_you_mean(key, _KEYS)}")
    if "base" not in content:
        raise SweepError(f"{file}: 'base' is missing, the config that the runs start from.")
    if ("axes" in content) == ("variants" in content):
        raise SweepError(
            f"{file}: give either 'axes', all of whose levels are crossed, or 'variants'."
        )
    for key in _TEXTS:
        if key in content and not (isinstance(content[key], str) and content[key]):
            raise SweepError(f"{file}: {key} is {content[key]!r}; it must be a text.")
    base = file.parent / content["base"]
    if not base.is_file():
        raise SweepError(
            f"{file}: base, {base}, does not exist. It is relative to the sweep's file."
        )


def _is_seed(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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
        _check_independent(file, levels)
        axes = {axis: list(values) for axis, values in levels.items()}
        variants = [
            _cross(dict(zip(levels, names, strict=True)), levels)
            for names in itertools.product(*levels.values())
        ]
    folders = {}
    for variant in variants:
        folder = folder_name(variant.name)
        if folder in _NO_FOLDERS or len(folder) > 255:
            raise SweepError(
                f"{file}: '{variant.name}' cannot be the name of a variant's folder. Name the "
                "levels: an axis may be a mapping of names to overrides."
            )
        other = folders.setdefault(folder, variant.name)
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
        if axis in _RESERVED:
            raise SweepError(f"{file}: the axis {axis} is what '{_RESERVED[axis]}' is for.")
        short = axis.rpartition(".")[2]
        texts = [x if isinstance(x, str) else as_argument(x) for x in value]
        levels = {f"{short}={t}": {axis: x} for t, x in zip(texts, value, strict=True)}
        if len(levels) < len(value):
            raise SweepError(f"{file}: the axis {axis} has a value twice: {value}.")
        return levels
    if isinstance(value, dict) and value:
        return {str(name): _flatten(file, f"{axis}.{name}", o) for name, o in value.items()}
    raise SweepError(
        f"{file}: the axis {axis} must be a list of a config key's values, or a mapping of names "
        "to overrides."
    )


def _check_independent(file, levels):
    setters = {}
    for axis, overrides in levels.items():
        for key in {key for level in overrides.values() for key in level}:
            other = setters.setdefault(key, axis)
            if other != axis:
                raise SweepError(f"{file}: the axes {other} and {axis} both set {key}.")


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
        found = (
            _flatten(file, name, value, f"{path}.") if isinstance(value, dict) else {path: value}
        )
        twice = sorted(flat.keys() & found.keys())
        if twice:
            raise SweepError(f"{file}: {name} sets {twice[0]} twice.")
        flat.update(found)
    return flat


def _pairs(opts, variants):
    """Overrides of the command line, which must not be lost beneath those of a variant."""
    if len(opts) % 2:
        raise SweepError(f"Overrides are pairs of KEY VALUE; '{opts[-1]}' has no partner.")
    for key in opts[::2]:
        if key in _RESERVED:
            raise SweepError(f"{key} cannot be overridden: that is what '{_RESERVED[key]}' is for.")
        for variant in variants:
            if key in variant.overrides:
                raise SweepError(f"{key} cannot be overridden: variant '{variant.name}' sets it.")
    return dict(zip(opts[::2], opts[1::2], strict=True))


def _with_types(sweep):
    """Values that are written as in a config: "(5, 7)" and "1e-4" are text to YAML."""
    try:
        cfg = load_config(str(sweep.base), register=False)
    except ConfigError as error:
        raise SweepError(f"{sweep.file}, base: {error}") from error
    variants = [
        dataclasses.replace(variant, overrides=_typed(cfg, variant.overrides))
        for variant in sweep.variants
    ]
    overrides = _typed(cfg, sweep.overrides)
    return dataclasses.replace(sweep, overrides=overrides, variants=tuple(variants))


def _typed(cfg, overrides):
    return {key: _as_type_of(_default(cfg, key), value) for key, value in overrides.items()}


def _default(cfg, key):
    node = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _as_type_of(default, value):
    if isinstance(default, str) or not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _check_configs(sweep):
    for variant in sweep.variants:
        run = sweep.run(variant, sweep.seeds[0])
        try:
            run.load_config()
        except ConfigError as error:
            raise SweepError(f"{sweep.file}, variant '{variant.name}': {error}") from error

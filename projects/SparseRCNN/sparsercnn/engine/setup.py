"""From a YAML file and a command line to a config that is checked, safe to load and frozen."""

import argparse
import difflib
import logging
import os
import re

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import add_sparsercnn_config, read_renamed_keys
from ..errors import ConfigError
from .config_check import check_config

__all__ = [
    "ConfigError",
    "add_model_arguments",
    "add_opts_argument",
    "add_unsafe_argument",
    "argument_parser",
    "check_devices",
    "load_config",
    "load_demo_config",
    "setup",
    "visible_gpus",
]


def argument_parser(epilog=None):
    """detectron2's command line, with ``--allow-unsafe``.

    Args:
        epilog (str): shown after the options.

    Returns:
        argparse.ArgumentParser:
    """
    parser = default_argument_parser(epilog)
    add_unsafe_argument(parser)
    return parser


def add_unsafe_argument(parser):
    """Add ``--allow-unsafe`` to an :class:`argparse.ArgumentParser`."""
    parser.add_argument(
        "--allow-unsafe",
        action="store_true",
        help="trust the config's Python tags and any pickled weights; both can run code",
    )


def add_model_arguments(parser):
    """Add ``--config-file``, ``--allow-unsafe`` and ``--opts`` to an
    :class:`argparse.ArgumentParser` of a tool that uses one trained model."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML of the model")
    add_unsafe_argument(parser)
    add_opts_argument(parser, "config overrides, MODEL.WEIGHTS among them")


def add_opts_argument(parser, what="config overrides"):
    """Add ``--opts``, the rest of the command line, to an :class:`argparse.ArgumentParser`."""
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help=f"{what}; last on the line",
    )


def setup(args):
    """Config, devices, logging, seed, and a copy of the config in OUTPUT_DIR.

    Args:
        args (argparse.Namespace): from :func:`argument_parser`. With ``--num-gpus 0``, a
            MODEL.DEVICE of "cuda" becomes "cpu".

    Returns:
        CfgNode: frozen.

    Raises:
        ConfigError: see :func:`load_config` and :func:`check_devices`.
    """
    cfg = load_config(args.config_file, args.opts, allow_unsafe=args.allow_unsafe)
    if args.num_gpus == 0 and cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
        cfg.freeze()
    check_devices(cfg, args.num_gpus)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="sparsercnn")
    return cfg


def check_devices(cfg, num_gpus=1):
    """Raise ConfigError if the config, or the command line, asks for GPUs that are not there.

    Args:
        cfg (CfgNode): with MODEL.DEVICE.
        num_gpus (int): processes on this machine, each with a GPU of its own.
    """
    if num_gpus > 1 and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ConfigError(
            f"--num-gpus {num_gpus} needs MODEL.DEVICE cuda, which is {cfg.MODEL.DEVICE}. On "
            "CPU one process runs: --num-gpus 0."
        )
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, and PyTorch finds no usable GPU here. To run on "
            "CPU, set MODEL.DEVICE cpu (for training also: --num-gpus 0)."
        )
    if num_gpus > torch.cuda.device_count():
        raise ConfigError(f"--num-gpus {num_gpus}: there are {torch.cuda.device_count()} here.")


def visible_gpus():
    """The GPUs of this machine that may be used (list[str]), as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = torch.cuda.device_count()
    return visible.split(",")[:found] if visible else [str(i) for i in range(found)]


def load_config(config_file, opts=(), allow_unsafe=False, register=True):
    """Defaults, the YAML file with its bases, and overrides.

    Detectron2's own models have its default of TEST.DETECTIONS_PER_IMAGE, unless it is set.

    Args:
        config_file (str): YAML, with ``_BASE_`` or without.
        opts (list[str]): KEY VALUE pairs, flattened.
        allow_unsafe (bool): let Python tags in YAML run code.
        register (bool): register the ``coco:`` and ``voc:`` entries of DATASETS, which reads
            their files.

    Returns:
        CfgNode: frozen.

    Raises:
        ConfigError: a file that is missing, is no YAML or holds Python tags; a key that does not
            exist, with the nearest that does; a value of the wrong type; or see
            :func:`~sparsercnn.engine.config_check.check_config`.
    """
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    defaults = cfg.clone()
    _merge_file(cfg, config_file, allow_unsafe)
    _merge_opts(cfg, list(opts or ()))
    if cfg.MODEL.META_ARCHITECTURE != "SparseRCNN" and cfg.TEST.DETECTIONS_PER_IMAGE < 0:
        # What is not set is not "no limit" to detectron2's own models, but its default.
        cfg.TEST.DETECTIONS_PER_IMAGE = get_cfg().TEST.DETECTIONS_PER_IMAGE
    read_renamed_keys(cfg)
    check_config(cfg, defaults)
    if register:
        _register([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    cfg.freeze()
    return cfg


def load_demo_config(config_file, opts=(), allow_unsafe=False):
    """:func:`load_config` for use away from the data, and a check that the device is there.

    Of the data sets only the first is registered, which gives class names. Where its files are
    not at hand, which is said, the checkpoint's names have to do.

    Args, returns and errors are those of :func:`load_config` and :func:`check_devices`.
    """
    cfg = load_config(config_file, opts, allow_unsafe=allow_unsafe, register=False)
    check_devices(cfg)
    try:
        _register([*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN][:1])
    except (OSError, ValueError) as error:
        logging.getLogger(__name__).warning(f"Class names come from the checkpoint: {error}")
    return cfg


def _register(names):
    from ..data import register_datasets  # it imports detectron2's data sets: slow

    register_datasets(names)


def _merge_file(cfg, config_file, allow_unsafe):
    if not config_file:
        raise ConfigError("There is no config: give one by --config-file.")
    try:
        cfg.merge_from_file(config_file, allow_unsafe=allow_unsafe)
    except yaml.constructor.ConstructorError as error:
        # The mark names the file that holds the tag, which may be a _BASE_ of the one asked for.
        raise ConfigError(
            f"{_position(error, config_file)} is refused: {error.problem}. A Python tag can run "
            "code on this machine. If you trust who wrote the file, use --allow-unsafe."
        ) from error
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{_position(error, config_file)}: not YAML: {problem}.") from error
    except OSError as error:
        raise ConfigError(f"{config_file}, or a _BASE_ of it, cannot be read: {error}.") from error
    except RecursionError as error:
        raise ConfigError(f"{config_file}: its _BASE_ leads back to itself.") from error
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            f"{config_file}, or a _BASE_ of it, is no mapping of keys to values: {error}."
        ) from error
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"{config_file}: {_explain(cfg, error)}") from error


def _position(error, config_file):
    mark = getattr(error, "problem_mark", None)
    return f"{mark.name}, line {mark.line + 1}" if mark else config_file


def _merge_opts(cfg, opts):
    flags = [x for x in opts[::2] if x.startswith("-")]
    if flags:
        raise ConfigError(f"{flags[0]} must come before the KEY VALUE pairs, which end the line.")
    if len(opts) % 2:
        raise ConfigError(f"Overrides are pairs of KEY VALUE; '{opts[-1]}' has no partner.")
    try:
        cfg.merge_from_list(opts)
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"Override: {_explain(cfg, error)}") from error


def _explain(cfg, error):
    """yacs' message; for an unknown key with the nearest known ones."""
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

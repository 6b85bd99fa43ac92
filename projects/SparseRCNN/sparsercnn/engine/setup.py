"""Build a checked, frozen config from a YAML file and a command line."""

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
    """detectron2's command line, with ``--allow-unsafe``; `epilog` is shown after the options."""
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
    add_opts_argument(parser, "config overrides, including MODEL.WEIGHTS")


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
    """Load the config, check the devices, set up logging and seed, save the config to OUTPUT_DIR.

    Args:
        args (argparse.Namespace): from :func:`argument_parser`. With ``--num-gpus 0``, a
            MODEL.DEVICE of "cuda" becomes "cpu".

    Returns:
        CfgNode: the whole config, frozen.

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
    """Raise ConfigError if the config or the command line asks for GPUs that are not available.

    Args:
        cfg (CfgNode): the whole config; MODEL.DEVICE is read.
        num_gpus (int): processes on this machine, each with its own GPU.
    """
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        if num_gpus > 1:
            raise ConfigError(
                f"--num-gpus {num_gpus} needs MODEL.DEVICE cuda, but MODEL.DEVICE is "
                f"{cfg.MODEL.DEVICE}. On the CPU only one process runs: use --num-gpus 0."
            )
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but PyTorch finds no usable GPU. To run on the "
            "CPU, set MODEL.DEVICE cpu (for training also: --num-gpus 0)."
        )
    if num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus {num_gpus} is too many: there are {torch.cuda.device_count()} GPUs."
        )


def visible_gpus():
    """The GPUs of this machine that may be used (list[str]), as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = torch.cuda.device_count()
    return visible.split(",")[:found] if visible else [str(i) for i in range(found)]


def load_config(config_file, opts=(), allow_unsafe=False, register=True):
    """Merge defaults, the YAML file with its bases, and overrides, and check the result.

    Unless it is set, detectron2's own models get detectron2's default TEST.DETECTIONS_PER_IMAGE.

    Args:
        config_file (str): path of the YAML file, with or without ``_BASE_``.
        opts (list[str]): KEY VALUE pairs, flattened.
        allow_unsafe (bool): let Python tags in YAML run code.
        register (bool): register the ``coco:`` and ``voc:`` entries of DATASETS, which reads
            their files.

    Returns:
        CfgNode: the whole config, frozen.

    Raises:
        ConfigError: a file is missing, is not YAML or holds Python tags; a key does not exist (the
            message names the nearest one); a value has the wrong type; or see
            :func:`~sparsercnn.engine.config_check.check_config`.
    """
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    defaults = cfg.clone()
    _merge_file(cfg, config_file, allow_unsafe)
    _merge_opts(cfg, list(opts or ()))
    if cfg.MODEL.META_ARCHITECTURE != "SparseRCNN" and cfg.TEST.DETECTIONS_PER_IMAGE < 0:
        # Detectron2's own models would take -1 as "no limit"; restore detectron2's default.
        cfg.TEST.DETECTIONS_PER_IMAGE = get_cfg().TEST.DETECTIONS_PER_IMAGE
    read_renamed_keys(cfg)
    check_config(cfg, defaults)
    if register:
        _register([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    cfg.freeze()
    return cfg


def load_demo_config(config_file, opts=(), allow_unsafe=False):
    """:func:`load_config` for inference without the data sets; also checks the device.

    Only the first data set is registered, for its class names. If its files are missing, a warning
    says that the checkpoint's class names are used.

    Arguments, return value and errors are those of :func:`load_config` and :func:`check_devices`.
    """
    cfg = load_config(config_file, opts, allow_unsafe=allow_unsafe, register=False)
    check_devices(cfg)
    try:
        _register([*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN][:1])
    except (OSError, ValueError) as error:
        logging.getLogger(__name__).warning(f"Class names come from the checkpoint: {error}")
    return cfg


def _register(names):
    from ..data import register_datasets  # slow: imports detectron2's data sets

    register_datasets(names)


def _merge_file(cfg, config_file, allow_unsafe):
    if not config_file:
        raise ConfigError("No config file was given; use --config-file FILE.")
    try:
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


def _position(error, config_file):
    mark = getattr(error, "problem_mark", None)
    return f"{mark.name}, line {mark.line + 1}" if mark else config_file


def _merge_opts(cfg, opts):
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

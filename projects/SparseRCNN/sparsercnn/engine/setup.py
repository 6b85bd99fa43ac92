"""Build a checked, frozen config from a YAML file and a command line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from .. import modeling  # noqa: F401, registers all that a config may name
from ..config import add_sparsercnn_config
from ..config_files import find_config
from ..data import register_datasets
from ..errors import ConfigError
from .checkpoint_files import find_weights, is_exported, read_metadata
from .config_check import check_batch, check_config
from .config_merge import merge_file, merge_opts, merge_text
from .devices import check_devices
from .imports import add_imported_keys, import_modules, imports_of
from .model_check import check_model
from .run_folder import open_run_folder

__all__ = [
    "get_config",
    "load_config",
    "load_demo_config",
    "load_model_config",
    "setup",
    "start_run",
]


_AUTO = "auto"


def setup(args):
    """Load the config, check the devices, open OUTPUT_DIR, save the config, start logs and seed.

    Args:
        args (argparse.Namespace): from :func:`~sparsercnn.engine.arguments.argument_parser`. With
            ``--num-gpus 0``, a MODEL.DEVICE of "cuda" becomes "cpu". Only with ``--eval-only`` may
            the config be that of the checkpoint.

    Returns:
        CfgNode: the whole config, frozen.

    Raises:
        ConfigError: see :func:`load_config`, :func:`load_model_config`, :func:`check_devices`,
            :func:`~sparsercnn.engine.run_folder.open_run_folder`; or ``--overwrite`` would move
            MODEL.WEIGHTS.
    """
    import_modules(getattr(args, "imports", None) or ())  # this process may not have parsed them
    load = load_model_config if args.eval_only else load_config
    cfg = load(args.config_file, args.opts, allow_unsafe=args.allow_unsafe)
    if args.num_gpus == 0 and cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
        cfg.freeze()
    check_devices(cfg, args.num_gpus)
    training, num_processes = not args.eval_only, comm.get_world_size()
    if training:
        check_batch(cfg, num_processes, "processes")
    if not is_exported(cfg.MODEL.WEIGHTS):
        check_model(cfg, training, num_processes)
    if comm.is_main_process():
        _require_writable(cfg.OUTPUT_DIR)
    if args.overwrite and _is_inside(cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR):
        raise ConfigError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is in OUTPUT_DIR {cfg.OUTPUT_DIR}, whose run "
            "--overwrite moves. Set another OUTPUT_DIR, or copy the weights to another folder."
        )
    open_run_folder(
        cfg.OUTPUT_DIR,
        resume=args.resume,
        overwrite=args.overwrite,
        training=not args.eval_only,
    )
    start_run(cfg, args)
    return cfg


def start_run(cfg, args):
    """Set up logging and seed, and say in files of OUTPUT_DIR what is run and where.

    As detectron2's ``default_setup``, but the config and the environment, hundreds of lines, go to
    ``config.yaml`` and ``environment.txt`` alone.

    Args:
        cfg (CfgNode): the whole config.
        args (argparse.Namespace): from :func:`~sparsercnn.engine.arguments.argument_parser`.
    """
    rank, output = comm.get_rank(), cfg.OUTPUT_DIR
    if comm.is_main_process():
        os.makedirs(output, exist_ok=True)
    for name in ("fvcore", "detectron2", "sparsercnn"):
        logger = setup_logger(output, distributed_rank=rank, name=name)
    if comm.is_main_process():
        texts = {"config.yaml": cfg.dump(), "environment.txt": collect_env_info() + "\n"}
        for name, text in texts.items():
            with open(os.path.join(output, name), "w", encoding="utf-8") as file:
                file.write(text)
        device = cfg.MODEL.DEVICE
        if device.startswith("cuda"):
            device += f" ({torch.cuda.get_device_name()})"
        logger.info(
            f"PyTorch {torch.__version__} on {device}; processes: {comm.get_world_size()}, threads "
            f"of each: {torch.get_num_threads()}; more in {output}/environment.txt."
        )
        source = find_config(args.config_file) if args.config_file else "the checkpoint's config"
        opts = f" with {' '.join(map(str, args.opts))}" if args.opts else ""
        logger.info(f"Config: {source}{opts}; all keys in {output}/config.yaml.")
    # Each process draws other numbers, and with a SEED the same in each run.
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def _is_inside(path, folder):
    return bool(path) and os.path.realpath(os.path.dirname(path)) == os.path.realpath(folder)


def _require_writable(folder):
    """Raise ConfigError if files cannot be written to OUTPUT_DIR, which is made if need be."""
    advice = "Set OUTPUT_DIR to a folder that can be written, on a disk with space."
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
    except FileExistsError as error:
        raise ConfigError(f"OUTPUT_DIR {folder} is a file. {advice}") from error
    except OSError as error:
        raise ConfigError(
            f"OUTPUT_DIR {folder} cannot be used: {error.strerror}. {advice}"
        ) from error


def get_config(name: str | os.PathLike[str], opts: Sequence[str] = ()) -> CfgNode:
    """A config that can be changed, for :func:`detectron2.modeling.build_model` and the like.

    Args:
        name (str | Path): a YAML file, or the name of one in ``configs``, such as
            "sparse_rcnn/sparsercnn.res50.100pro.3x".
        opts (sequence[str]): KEY VALUE pairs, flattened.

    Returns:
        CfgNode: the whole config, not frozen.

    Raises:
        ConfigError: see :func:`load_config`.
    """
    cfg = load_config(name, opts, register=False)
    cfg.defrost()
    return cfg


def load_config(config_file, opts=(), allow_unsafe=False, register=True, choose_device=True):
    """Merge defaults, the YAML file with its bases, and overrides, and check the result.

    Unless it is set, detectron2's own models get detectron2's default TEST.DETECTIONS_PER_IMAGE.
    The folder of a run as MODEL.WEIGHTS becomes one of its checkpoints, see
    :func:`~sparsercnn.engine.checkpoint_files.find_weights`.
    MODEL.DEVICE "auto", which is also the default here, becomes "cuda" if there is a usable GPU,
    else "cpu".

    Args:
        config_file (str | Path): a YAML file, with or without ``_BASE_``, or the name of one in
            ``configs``; see :func:`~sparsercnn.config_files.find_config`.
        opts (list[str]): KEY VALUE pairs, flattened.
        allow_unsafe (bool): let Python tags in YAML run code.
        register (bool): register the ``coco:`` and ``voc:`` entries of DATASETS, which reads
            their files.
        choose_device (bool): False: leave MODEL.DEVICE "auto" to another machine.

    Returns:
        CfgNode: the whole config, frozen.

    Raises:
        ConfigError: a file is missing, is not YAML or holds Python tags; a key does not exist (the
            message names the nearest one); a value has the wrong type; or see
            :func:`~sparsercnn.engine.config_check.check_config`.
        CheckpointError: the folder MODEL.WEIGHTS has no checkpoint.
    """
    return _load(
        lambda cfg: merge_file(cfg, config_file, allow_unsafe), opts, register, choose_device
    )


def load_model_config(config_file="", opts=(), allow_unsafe=False, register=True):
    """:func:`load_config` for a trained model, whose checkpoint may have the config.

    Without `config_file`, the config is that in MODEL.WEIGHTS of `opts`, or, in the folder of a
    run whose checkpoints have none, ``config.yaml``. MODEL.DEVICE is then a GPU if there is one,
    and OUTPUT_DIR has its default: where the model was trained says nothing about this machine.
    Exported models run on the CPU unless they are told otherwise.

    Args:
        config_file (str | Path): see :func:`load_config`; "" for none.
        opts (list[str]): KEY VALUE pairs, flattened.
        allow_unsafe (bool): load any pickle and let Python tags in YAML run code.
        register (bool): see :func:`load_config`.

    Returns:
        CfgNode: the whole config, frozen.

    Raises:
        ConfigError: see :func:`load_config`; or there is no config.
        CheckpointError: the weights cannot be read.
    """
    opts = [str(x) for x in opts or ()]
    if config_file:
        return load_config(config_file, opts, allow_unsafe, register)
    weights = _last_value(opts, "MODEL.WEIGHTS")
    folder = weights if weights and os.path.isdir(weights) else None
    if folder:
        weights = find_weights(folder)
        opts += ["MODEL.WEIGHTS", weights]
    if not weights:
        raise ConfigError(
            "No config was given: use --config-file FILE, or set MODEL.WEIGHTS to a checkpoint of "
            "this project, which holds its config."
        )
    text = read_metadata(weights, allow_unsafe).get("config_yaml")
    beside = os.path.join(folder or "", "config.yaml")
    if text is None and not (folder and os.path.isfile(beside)):
        raise ConfigError(
            f"{weights} has no config of this project: give that which it was trained with by "
            "--config-file (config_file=...)."
        )

    def merge(cfg):
        device = "cpu" if is_exported(weights) else _AUTO
        output = cfg.OUTPUT_DIR
        if text is None:
            merge_file(cfg, beside, allow_unsafe)
        else:
            merge_text(cfg, text, weights)
        cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = device, output

    return _load(merge, opts, register)


def load_demo_config(config_file="", opts=(), allow_unsafe=False):
    """:func:`load_model_config` for inference without the data sets; also checks the device.

    Arguments, return value and errors are those of :func:`load_model_config` and
    :func:`check_devices`.
    """
    cfg = load_model_config(config_file, opts, allow_unsafe, register=False)
    check_devices(cfg)
    if not is_exported(cfg.MODEL.WEIGHTS):
        check_model(cfg)
    return cfg


def _last_value(opts, key):
    """The value that `key` gets from KEY VALUE pairs; None if they lack it."""
    return dict(zip(opts[::2], opts[1::2], strict=False)).get(key)


def _load(merge, opts, register, choose_device=True):
    """The whole config, frozen: defaults, then what `merge` sets, then `opts`; checked."""
    opts = list(opts or ())
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.MODEL.DEVICE = _AUTO
    add_imported_keys(cfg, imports_of(opts))
    imported = list(cfg.IMPORT)
    merge(cfg)
    imported += [name for name in cfg.IMPORT if name not in imported]
    merge_opts(cfg, opts)
    cfg.IMPORT = imported
    if choose_device and cfg.MODEL.DEVICE == _AUTO:
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    if cfg.MODEL.META_ARCHITECTURE != "SparseRCNN" and cfg.TEST.DETECTIONS_PER_IMAGE < 0:
        # Detectron2's own models would take -1 as "no limit"; restore detectron2's default.
        cfg.TEST.DETECTIONS_PER_IMAGE = get_cfg().TEST.DETECTIONS_PER_IMAGE
    check_config(cfg, _defaults(cfg))
    if os.path.isdir(cfg.MODEL.WEIGHTS):
        cfg.MODEL.WEIGHTS = find_weights(cfg.MODEL.WEIGHTS)
    if register:
        register_datasets([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    cfg.freeze()
    return cfg


def _defaults(cfg):
    defaults = get_cfg()
    add_sparsercnn_config(defaults)
    add_imported_keys(defaults, cfg.IMPORT)
    return defaults

r"""Train or evaluate any model of this project.

.. code-block:: bash

    # train on 8 GPUs, as published
    CONFIG=configs/sparse_rcnn/sparsercnn.res50.100pro.3x.yaml
    python projects/SparseRCNN/train_net.py --num-gpus 8 --config-file $CONFIG

    # the same on one GPU: the published batch of 16 images as 8 times 2
    python projects/SparseRCNN/train_net.py --num-gpus 1 --config-file $CONFIG \
        SOLVER.REFERENCE_WORLD_SIZE 8 SOLVER.ACCUMULATE_STEPS 8

    # continue after an interruption; evaluate
    python projects/SparseRCNN/train_net.py --num-gpus 8 --config-file $CONFIG --resume
    python projects/SparseRCNN/train_net.py --num-gpus 8 --config-file $CONFIG --eval-only \
        MODEL.WEIGHTS output/model_final.pth

    # on the CPU, in minutes; the same in two processes
    python projects/SparseRCNN/train_net.py --num-gpus 0 \
        --config-file configs/quickstart/sparsercnn.yaml
    python projects/SparseRCNN/train_net.py --num-processes 2 \
        --config-file configs/quickstart/sparsercnn.yaml

    # started by torchrun or srun, which are found; see docs/training.md
    torchrun --nproc-per-node 8 projects/SparseRCNN/train_net.py --config-file $CONFIG

Keys and values at the end of the line override the config.
"""

import sys

from ..engine.arguments import argument_parser
from ..engine.interruption import EXIT_STATUS, take_signals
from ..errors import ConfigError, parse_arguments, run_program

# Whatever needs PyTorch is imported where it is used: --help does not wait for it.


def main(argv=None):
    """Run the program with `argv`, None for the arguments of the process; returns the exit
    status: 75 if a signal has stopped a training, see docs/training.md."""
    args = parse_arguments(argument_parser(__doc__), argv)
    interrupted = "Interrupted. --resume continues from the last checkpoint."
    try:
        return run_program(start, args, on_interrupt=interrupted)
    except SystemExit as end:
        if end.code != EXIT_STATUS:
            raise
        print("\nStopped by a signal. --resume continues.", file=sys.stderr)
        return EXIT_STATUS


def run(args):
    """One process of a run.

    Args:
        args (argparse.Namespace): from :func:`sparsercnn.engine.arguments.argument_parser`.

    Returns:
        dict: evaluation results, task -> metric -> value.
    """
    if args.eval_only:
        return evaluate(_set_up(args), args.allow_unsafe)
    with take_signals():
        return train(_set_up(args), args)


def _set_up(args):
    from ..data import check_num_classes
    from ..engine.processes import check_processes
    from ..engine.setup import setup

    cfg = setup(args)
    check_processes(cfg)
    check_num_classes(cfg)
    return cfg


def train(cfg, args):
    """Train as the config says, from the start or as ``--resume`` continues.

    Args:
        cfg (CfgNode): the whole config.
        args (argparse.Namespace): `resume` and `allow_unsafe` are read.

    Returns:
        dict: results of the last evaluation; {} except on the main process.

    Raises:
        Stopped: a signal has ended it, after a checkpoint.
    """
    from ..data import check_test_sets
    from ..engine.checkpoint_files import is_exported
    from ..engine.trainer import Trainer

    if is_exported(cfg.MODEL.WEIGHTS):
        raise ConfigError(
            f"{cfg.MODEL.WEIGHTS} is an exported model, which cannot be trained: use --eval-only, "
            "or set MODEL.WEIGHTS to a checkpoint."
        )
    check_test_sets(cfg)  # fail now, not hours later at the first evaluation
    trainer = Trainer(cfg, allow_unsafe=args.allow_unsafe)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def evaluate(cfg, allow_unsafe=False):
    """Evaluate MODEL.WEIGHTS, a checkpoint of the whole model or an exported one, on DATASETS.TEST.

    Args:
        cfg (CfgNode): the whole config.
        allow_unsafe (bool): load weights from any pickle, which may run code.

    Returns:
        dict: task -> metric -> value; with TEST.AUG.ENABLED also each task with suffix "_TTA".
    """
    from detectron2.evaluation import verify_results
    from detectron2.utils import comm

    from ..engine.checkpoint import load_for_inference
    from ..engine.checkpoint_files import is_exported
    from ..engine.trainer import Trainer
    from ..export import load_exported_for

    if is_exported(cfg.MODEL.WEIGHTS):
        model = load_exported_for(cfg)
    else:
        model = Trainer.build_for_evaluation(cfg)
        load_for_inference(model, cfg.MODEL.WEIGHTS, allow_unsafe)
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        for name, augmented in Trainer.test_with_TTA(cfg, model).items():
            results.setdefault(name, {}).update(augmented)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def start(args):
    """Start all processes of a run on this machine, or join those that torchrun or srun started,
    each with the `args` of :func:`run`."""
    from ..engine.processes import run_processes

    run_processes(run, args)

"""The trainer: builds every part of a run from one config, with hooks and evaluation."""

import contextlib
import logging
import os
import re
import weakref
from collections import OrderedDict

import torch
from detectron2.engine import DefaultTrainer, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.modeling import build_model
from detectron2.solver.lr_scheduler import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, JSONWriter
from detectron2.utils.logger import setup_logger
from fvcore.nn.precise_bn import get_bn_modules

from ..conversion.pretrained import load_pretrained, pretrained_source
from ..data import build_test_loader, build_train_loader
from ..errors import CheckpointError, ConfigError, abbreviate
from ..evaluation import LOWER_IS_BETTER, build_evaluator
from ..inference import prepare_for_inference
from ..modeling import SparseRCNNWithTTA
from ..modeling.activation_checkpoint import checkpoint_activations
from ..modeling.compilation import compile_for_training
from ..modeling.freezing import freeze
from .checkpoint_files import describe_run, read_metadata
from .config_check import require_augmentable
from .data_parallel import distribute
from .hooks import BestCheckpointer, EarlyStopping, StopTraining
from .interruption import deferred
from .param_groups import describe_layer_decay
from .run_folder import changed_keys, remove_latest
from .run_hooks import Checkpoints, Evaluation, MetricsWriter, StopOnSignal
from .schedule import schedule_in_iterations
from .serialization import read_torch_file
from .solver import build_lr_scheduler, build_optimizer, scale_for_workers
from .trackers import build_trackers, require_trackers
from .train_step import TrainStep
from .training_checkpoint import TrainingCheckpointer
from .weight_average import WeightAverage

__all__ = ["Trainer"]

_NEW = "new_weights"  # in the metadata of a checkpoint: those that MODEL.WEIGHTS lacked


class Trainer(DefaultTrainer):
    """A :class:`detectron2.engine.DefaultTrainer` built from this project's parts.

    It adds gradient accumulation and checked losses (:class:`TrainStep`), safe checkpoints that
    hold the optimizer, the config and the class names (:class:`TrainingCheckpointer`), the best
    checkpoint, an average of the weights (:class:`WeightAverage`), scaling to the number of workers
    by a rule for each optimizer (:func:`scale_for_workers`), an evaluator chosen by the type of the
    data set, and test-time augmentation.
    """

    def __init__(self, cfg, allow_unsafe=False):
        """
        Args:
            cfg (CfgNode): the whole config.
            allow_unsafe (bool): load weights from any pickle, which may run code.
        """
        # DefaultTrainer.__init__ would build detectron2's parts.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        as_given = cfg
        require_trackers(cfg.TRACKERS)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        cfg = schedule_in_iterations(cfg, getattr(data_loader, "images_per_epoch", None))
        model = distribute(cfg, model)
        bare_model = getattr(model, "module", model)
        self.average = WeightAverage(cfg, bare_model) if cfg.SOLVER.EMA.ENABLED else None
        self._trainer = TrainStep(cfg, model, data_loader, optimizer, average=self.average)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = TrainingCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            average=self.average,
            allow_unsafe=allow_unsafe,
            metadata=describe_run(as_given),
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self._evaluated_at = None
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume=True):
        """Start from the last checkpoint in OUTPUT_DIR, or from MODEL.WEIGHTS if there is none.

        A resumed run continues iteration, schedule, optimizer, loss scale and best metric; rates,
        weight decay, betas and momentum are those of the config.
        With a fixed SEED it continues the order of the data too and, on a deterministic device,
        ends as it would have without the interruption. Without a SEED, the data starts in a new
        random order.

        Args:
            resume (bool): False: always start from MODEL.WEIGHTS.

        Raises:
            CheckpointError: see :class:`TrainingCheckpointer`.
            ConfigError: see :meth:`load_state_dict`, and
                :meth:`~sparsercnn.engine.train_step.TrainStep.load_state_dict`.
        """
        self._load(resume)
        if self.start_iter == 0 or self.cfg.SEED < 0:
            return
        if hasattr(self._trainer.data_loader, "start_at"):
            num_batches = self.start_iter * self.cfg.SOLVER.ACCUMULATE_STEPS
            self._trainer.data_loader.start_at(num_batches)
        else:  # the loader of a subclass cannot continue, but must not repeat the first batches
            seed_all_rng(self.cfg.SEED + comm.get_rank() + self.start_iter)
            self._trainer.reset_data_loader(lambda: self.build_train_loader(self.cfg))

    def _load(self, resume):
        with_rates = self.cfg.SOLVER.NEW_LAYERS_MULTIPLIER != 1
        resumes = resume and self.checkpointer.has_checkpoint()
        if with_rates and resumes:
            path = self.checkpointer.get_checkpoint_file()
            # Before its moments are loaded, which follow the groups.
            self._set_rates_of_new(read_metadata(path, self.checkpointer.allow_unsafe).get(_NEW))
        new = [] if resumes else self._load_backbone()
        rest = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resumes:
            # The checkpoint has the iteration that was done last.
            self.start_iter = self.iter + 1
            meta = rest.get("meta") if isinstance(rest.get("meta"), dict) else {}
            self._name_changes(meta)
            if not with_rates:
                self._set_rates_of_new(meta.get(_NEW))
        else:
            self._set_rates_of_new(new or self.checkpointer.new_weights)
        self._log_layer_decay()

    def _load_backbone(self):
        """Load MODEL.TIMM.PRETRAINED or MODEL.VIT.PRETRAINED, unless there is MODEL.WEIGHTS.

        Returns:
            list[str]: names of the weights that were not loaded; [] if there was nothing to load.
        """
        source = pretrained_source(self.cfg)
        if source and self.cfg.MODEL.WEIGHTS:
            logging.getLogger(__name__).info(
                f"{source}, the backbone's PRETRAINED, is not read: the training begins with "
                "MODEL.WEIGHTS."
            )
        elif source:
            unsafe = self.checkpointer.allow_unsafe
            return load_pretrained(self.cfg, self.checkpointer.model, unsafe)
        return []

    def _set_rates_of_new(self, names):
        """Build the optimizer anew if weights that MODEL.WEIGHTS lacks have another rate."""
        model = self.checkpointer.model
        own = model.state_dict()
        names = [name for name in names or () if name in own]  # a checkpoint may be of another
        if not names:
            return
        # For a resumed run, also one that gives them another rate, which must not pass unseen.
        self.checkpointer.metadata[_NEW] = names
        if self.cfg.SOLVER.NEW_LAYERS_MULTIPLIER != 1:
            self.optimizer = self.build_optimizer(self.cfg, model, names)
            self.scheduler = self.build_lr_scheduler(self.cfg, self.optimizer)

    def _log_layer_decay(self):
        decay = self.cfg.SOLVER.LAYER_DECAY
        if decay != 1:
            new = self.checkpointer.metadata.get(_NEW, ())
            table = describe_layer_decay(self.cfg, self.checkpointer.model, new)
            logging.getLogger(__name__).info(f"SOLVER.LAYER_DECAY {decay}:\n{table}")

    def train(self):
        """
        Returns:
            OrderedDict: results of the last evaluation; {} except on the main process.
        """
        if self.start_iter >= self.max_iter and comm.is_main_process():
            self._complete_final()
        try:
            with deferred():
                super().train()
        except StopTraining:
            self.checkpointer.save("model_final", iteration=self.max_iter - 1)
            if comm.is_main_process():
                remove_latest(self.cfg.OUTPUT_DIR)
        return self._last_eval_results

    def _complete_final(self):
        """Write `model_final.pth` of a run that was killed just before, or while it did."""
        path = os.path.join(self.cfg.OUTPUT_DIR, "model_final.pth")
        iteration = None
        if os.path.isfile(path):
            with contextlib.suppress(CheckpointError):  # a damaged one is written anew
                unsafe = self.checkpointer.allow_unsafe
                iteration = read_torch_file(path, unsafe, mmap=True).get("iteration")
        if iteration != self.start_iter - 1:  # of an earlier, shorter run
            self.checkpointer.save("model_final", iteration=self.start_iter - 1)
        else:
            self.checkpointer.tag_last_checkpoint("model_final.pth")
        remove_latest(self.cfg.OUTPUT_DIR)

    def _name_changes(self, meta):
        then = meta.get("config_yaml")
        changed = changed_keys(then, self.checkpointer.metadata["config_yaml"]) if then else []
        if changed:
            logging.getLogger(__name__).warning(
                f"From iteration {self.start_iter} on, the config is another one than before: "
                f"{abbreviate(changed, limit=20)}."
            )

    def before_train(self):
        super().before_train()
        # What comes after the checkpoint in an iteration was interrupted unless there is its row.
        writer = next(hook for hook in self._hooks if isinstance(hook, MetricsWriter))
        is_complete = comm.all_gather(writer.last_row == self.start_iter - 1)[0]
        if 0 < self.start_iter <= self.max_iter:
            self.iter = self.storage.iter = self.start_iter - 1
            # The end of a run that stops early, `model_final.pth`, comes after its row.
            afterwards = (EarlyStopping,)
            if not is_complete:
                afterwards = (hooks.EvalHook, BestCheckpointer, EarlyStopping, MetricsWriter)
            for hook in self._hooks:
                if isinstance(hook, afterwards):
                    hook.after_step()

    def after_train(self):
        # Without any iteration left, detectron2 counts one too many.
        self.iter = min(self.iter, self.max_iter)
        if self.iter < self.max_iter:  # it would evaluate after a failure in the last iteration
            evaluating = (hooks.EvalHook, BestCheckpointer)
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, evaluating)]
        super().after_train()

    def build_hooks(self):
        """Detectron2's hooks, those of :mod:`~sparsercnn.engine.run_hooks` in place of its own for
        what a run writes; after evaluation, also the best checkpoint, early
        stopping and augmented testing."""
        period, solver = self.cfg.TEST.EVAL_PERIOD, self.cfg.SOLVER
        built = [hooks.IterationTimer(), hooks.LRScheduler(), self._build_precise_bn()]
        checkpoints = None
        if comm.is_main_process():
            checkpoints = Checkpoints(
                self.checkpointer,
                solver.CHECKPOINT_PERIOD,
                minutes=solver.CHECKPOINT_MINUTES,
                max_to_keep=solver.CHECKPOINT_MAX_TO_KEEP,
                eval_period=period,
            )
        built += [checkpoints, StopOnSignal(checkpoints), Evaluation(period, self._evaluate)]
        best = None
        metric, test_sets = self.cfg.TEST.BEST_METRIC, self.cfg.DATASETS.TEST
        if metric and test_sets and comm.is_main_process():
            best = BestCheckpointer(
                period,
                self.checkpointer,
                metric,
                # With several test sets, metrics are prefixed with the name of the set.
                aliases=[f"{test_sets[0]}/{metric}"],
                raw_names=_of_raw_weights(metric, test_sets[0]),
                lower_is_better=metric.rpartition("/")[2] in LOWER_IS_BETTER,
            )
            built.append(best)
        if self.cfg.SOLVER.PATIENCE > 0:
            built.append(EarlyStopping(self.cfg.SOLVER.PATIENCE, period, best))
        if self.cfg.TEST.AUG.ENABLED:
            built.append(Evaluation(0, self._test_augmented))
        built.append(MetricsWriter(self.cfg.OUTPUT_DIR, eval_period=period))
        return built

    def build_writers(self):
        """Detectron2's printer and `metrics.json`, and the writers of TRACKERS.

        Returns:
            list[EventWriter]: in the order of their use.
        """
        os.makedirs(self.cfg.OUTPUT_DIR, exist_ok=True)
        metrics = os.path.join(self.cfg.OUTPUT_DIR, "metrics.json")
        writers = [CommonMetricPrinter(self.max_iter), JSONWriter(metrics)]
        return [*writers, *build_trackers(self.cfg, resumed=self.start_iter > 0)]

    def _build_precise_bn(self):
        precise_bn = self.cfg.TEST.PRECISE_BN
        if not precise_bn.ENABLED or not get_bn_modules(self.model):
            return None
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # it reads few images
        loader = self.build_train_loader(cfg)
        return hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, precise_bn.NUM_ITER)

    def _evaluate(self):
        """Results of :meth:`test`; an early end does not repeat the evaluation that led to it."""
        iteration = min(self.iter, self.max_iter - 1)
        if self._evaluated_at != iteration:
            test = self.test if self.average is None else self._test_both
            self._last_eval_results = test(self.cfg, self.model)
            self._evaluated_at = iteration
        return self._last_eval_results

    def _test_both(self, cfg, model):
        """:meth:`test` of the averaged weights, and, marked "_raw", of the model's own ones."""
        logger = logging.getLogger(__name__)
        raw = {}
        if self.average.num_updates > 0:
            logger.info("Evaluation of the weights as they are, without average:")
            raw = _mark_all_tasks(cfg, self.test(cfg, model), "raw")
            logger.info("Evaluation of the averaged weights:")
        with self.average.applied():  # last: its files stay in OUTPUT_DIR
            results = self.test(cfg, model)
        for name, tasks in raw.items():
            results[name] = {**results[name], **tasks} if name in results else tasks
        return results

    def _test_augmented(self):
        with self.average.applied() if self.average is not None else contextlib.nullcontext():
            return self.test_with_TTA(self.cfg, self.model)

    def state_dict(self):
        """The state dict of newer detectron2; version 0.6 leaves out the optimizer."""
        state = super().state_dict()
        state["_trainer"] = self._trainer.state_dict()
        # The last completed iteration, even if a hook saves after the end of training.
        state["iteration"] = min(self.iter, self.max_iter - 1)
        return state

    def load_state_dict(self, state_dict):
        """
        Raises:
            ConfigError: the schedule is shorter than what has been done.
        """
        done = state_dict["iteration"] + 1
        if done > self.max_iter:
            raise ConfigError(
                f"The run in {self.cfg.OUTPUT_DIR} has done {done} iterations, and the schedule "
                f"has {self.max_iter}. To resume it, set a larger SOLVER.MAX_ITER or "
                "SOLVER.EPOCHS; for a new run, another OUTPUT_DIR."
            )
        base_lrs = self.scheduler.base_lrs
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            logging.getLogger(__name__).warning(
                "The checkpoint holds no optimizer: the optimizer's moments start from zero."
            )
        # A subclass may have a scheduler whose rates follow from the ones before.
        if isinstance(self.scheduler, LRMultiplier):
            self.scheduler.base_lrs = base_lrs
            rates = self.scheduler.get_lr()
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    @classmethod
    def build_model(cls, cfg):
        """:meth:`build_for_evaluation`, with MODEL.FREEZE, MODEL.ACTIVATION_CHECKPOINT and
        SOLVER.COMPILE."""
        model = cls.build_for_evaluation(cfg)
        freeze(model, cfg.MODEL.FREEZE)
        if cfg.SOLVER.COMPILE:
            # Before activation checkpointing, which then recomputes by compiled code.
            compile_for_training(model, blockwise=cfg.MODEL.ACTIVATION_CHECKPOINT.BACKBONE)
        recompute = cfg.MODEL.ACTIVATION_CHECKPOINT
        checkpoint_activations(model, backbone=recompute.BACKBONE, head=recompute.HEAD)
        return model

    @classmethod
    def build_for_evaluation(cls, cfg):
        """Build the model as MODEL.CHANNELS_LAST lays it out in memory, without what training alone
        needs. Its size is logged, not its layers as by detectron2's trainer."""
        model = build_model(cfg)
        number = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        logging.getLogger(__name__).info(f"{type(model).__name__}, {number:.1f} M parameters.")
        if cfg.MODEL.CHANNELS_LAST:
            # A convolution follows its weight, whatever the layout of the images.
            model.to(memory_format=torch.channels_last)
        return model

    # The builders that DefaultTrainer calls.
    build_optimizer = staticmethod(build_optimizer)
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_train_loader = staticmethod(build_train_loader)
    build_test_loader = staticmethod(build_test_loader)
    auto_scale_workers = staticmethod(scale_for_workers)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        """
        Returns:
            DatasetEvaluator: see :func:`sparsercnn.evaluation.build_evaluator`. It writes to
            OUTPUT_DIR/inference, with several test sets to a folder for each.
        """
        output_folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:
            output_folder = os.path.join(output_folder, re.sub(r"[^\w.-]+", "_", dataset_name))
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """Detectron2's evaluation of the model as TEST.OPTIMIZE, DTYPE and SEM_SEG prepare it.

        Several processes all evaluate with the first one's buffers, among them the statistics of
        batch norms, which each has of its own images; its checkpoints hold no others.
        """
        if comm.get_world_size() > 1:
            for buffer in model.buffers():
                shared = buffer.contiguous()  # as the exchange wants it
                torch.distributed.broadcast(shared, src=0)
                buffer.copy_(shared)
        return super().test(cfg, prepare_for_inference(cfg, model), evaluators)

    @classmethod
    def test_with_TTA(cls, cfg, model):  # noqa: N802, the original project's name
        """:meth:`test` with test-time augmentation according to TEST.AUG.

        Args:
            cfg (CfgNode): the whole config. Results are written to OUTPUT_DIR/TTA/inference.
            model (nn.Module): the model with its weights.

        Returns:
            OrderedDict: as from :meth:`test`, with suffix "_TTA" on each task's name.

        Raises:
            ConfigError: the model's meta-architecture is not SparseRCNN.
        """
        require_augmentable(cfg)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "TTA")
        return _mark_all_tasks(cfg, cls.test(cfg, SparseRCNNWithTTA(cfg, model)), "TTA")


def _mark_all_tasks(cfg, results, mark):
    """Results with "_mark" after the name of each task."""
    if len(cfg.DATASETS.TEST) == 1:
        return _mark_tasks(results, mark)
    return OrderedDict((name, _mark_tasks(tasks, mark)) for name, tasks in results.items())


def _mark_tasks(results, mark):
    return OrderedDict((f"{task}_{mark}", metrics) for task, metrics in results.items())


def _of_raw_weights(metric, test_set):
    """Names of a metric "TASK/METRIC" of weights that are not averaged."""
    task, _, name = metric.partition("/")
    return [f"{task}_raw/{name}", f"{test_set}/{task}_raw/{name}"]

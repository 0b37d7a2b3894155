"""Detectron2's trainer without what is in the way there."""

import logging
import os
import weakref
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from defcn_ext import PLATFORM
from defcn_ext._text import drop_torn_line
from defcn_ext.data.classes import weights_of_run, with_classes
from defcn_ext.data.loaders import build_test_loader, check_test_images, num_files, train_dicts
from defcn_ext.data.mapper import RobustMapper
from defcn_ext.data.mixer import build_mixer
from defcn_ext.data.register import check_num_classes, register_from_config
from defcn_ext.engine import solver
from defcn_ext.engine.checkpointer import Checkpointer
from defcn_ext.engine.console import ProgressPrinter
from defcn_ext.engine.data_order import ResumableLoader, build_sampler, images_per_process
from defcn_ext.engine.ema import AveragedCheckpointer, WeightAverage
from defcn_ext.engine.endings import mistakes_told_in_one_line
from defcn_ext.engine.fit import with_manifest
from defcn_ext.engine.hooks import EvalHook, PreciseBN
from defcn_ext.engine.memory import MemoryStats
from defcn_ext.engine.precision import amp_dtype
from defcn_ext.engine.preflight.batch_norm import check_batch_norm
from defcn_ext.engine.processes import distributed, share_buffers
from defcn_ext.engine.seeding import run_seed
from defcn_ext.engine.train_step import TrainStep
from defcn_ext.engine.uncovered import UncoveredObjects
from defcn_ext.meta_arch import DeFCN
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger

logger = logging.getLogger(__name__)

WRITE_PERIOD = 20  # iterations


class Trainer(DefaultTrainer):
    """DefaultTrainer whose runs repeat and resume bit by bit, on GPUs and on one or several CPU processes.

    Beyond the keys of `add_engine_config`: it cleans the training data, shows the length of the run and its memory,
    and returns the results of the last evaluation.
    """

    def __init__(self, cfg: CfgNode):
        TrainerBase.__init__(self)  # DefaultTrainer's own cannot wrap a CPU model for several processes
        for name in ("detectron2", "defcn_ext"):
            if not logging.getLogger(name).isEnabledFor(logging.INFO):
                setup_logger(name=name)
        logger.info("detectron2: %s", PLATFORM)
        register_from_config(cfg)
        if cfg.MODEL.META_ARCHITECTURE == "DeFCN":
            check_num_classes(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        cfg = with_classes(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), weights_of_run(cfg, resume=True))
        check_test_images(cfg)
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.done = 0  # iterations that came to their end, hooks included
        self.results: OrderedDict = OrderedDict()

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self._trainer = TrainStep(
            distributed(model),
            self.build_train_loader(cfg),
            optimizer,
            seed=run_seed(cfg),
            keep_seed=cfg.SEED >= 0,
            accumulate=cfg.SOLVER.ACCUMULATE,
            amp_dtype=amp_dtype(cfg),
        )
        check_batch_norm(cfg, model, self.data_loader.records, images_per_process(cfg) // cfg.SOLVER.ACCUMULATE)
        self.average = WeightAverage(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        state = {"cfg": cfg, "trainer": weakref.proxy(self)}
        if self.average is None:
            self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, **state)
        else:
            self.checkpointer = AveragedCheckpointer(self.average, model, cfg.OUTPUT_DIR, **state)
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Goes on from the newest good checkpoint in OUTPUT_DIR if `resume` and there is one, else loads MODEL.WEIGHTS.

        Raises:
            UserError: the checkpoints there are damaged, or of another model or optimizer.
        """
        super().resume_or_load(resume)
        if not (resume and self.checkpointer.has_checkpoint()):
            return
        self.start_iter = self._trainer.iter + 1  # `iter` is one ahead in what is saved after the training
        if self.start_iter >= self.max_iter:
            logger.warning(
                "%s: %d iterations are done and SOLVER.MAX_ITER is %d, so nothing is left to train: evaluating only. A "
                "larger SOLVER.MAX_ITER prolongs the run",
                self.cfg.OUTPUT_DIR,
                self.start_iter,
                self.max_iter,
            )
        if self.start_iter == self.max_iter and self.checkpointer.resumed_from != "model_final.pth":
            # killed between the last periodic save and the final one
            self.checkpointer.save("model_final", iteration=self._trainer.iter)

    def state_dict(self) -> dict[str, Any]:
        return with_manifest(super().state_dict())

    @property
    def seed(self) -> int:
        """Of the data and of the random state of each step; that of the checkpoint where SEED is negative."""
        return self._trainer.seed

    def after_step(self) -> None:
        super().after_step()
        self.done = self.iter + 1

    def train(self) -> OrderedDict:
        """Runs from `start_iter` to `max_iter` and returns the results of the last evaluation."""
        self.done = self.start_iter
        with mistakes_told_in_one_line():
            TrainerBase.train(self, self.start_iter, self.max_iter)
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            verify_results(self.cfg, self.results)
        return self.results

    def evaluate(self) -> OrderedDict:
        """Results on DATASETS.TEST, of the averaged weights where there are any."""
        with self.average.applied() if self.average else nullcontext():
            share_buffers(self.model)
            self.results = self.test(self.cfg, self.model)
        return self.results

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks in their order, with memory and the average of the weights after the timer."""
        period = self.cfg.TEST.EVAL_PERIOD
        everywhere = [hooks.IterationTimer(), MemoryStats(), self.average, hooks.LRScheduler(), self._precise_bn()]
        if not comm.is_main_process():
            return [*everywhere, EvalHook(period, self.evaluate)]
        # Writers see the latest value only: written less often than evaluated, results would get lost.
        write_period = min(WRITE_PERIOD, period) if period > 0 else WRITE_PERIOD
        return [
            *everywhere,
            UncoveredObjects(),
            hooks.PeriodicCheckpointer(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD),
            EvalHook(period, self.evaluate),
            hooks.PeriodicWriter(self.build_writers(), period=write_period),
        ]

    def _precise_bn(self) -> HookBase | None:
        if not (self.cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model)):
            return None
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # a second set of workers would double the memory
        loader = self.build_train_loader(cfg)
        return PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)

    def build_writers(self) -> list[EventWriter]:
        folder = self.cfg.OUTPUT_DIR
        os.makedirs(folder, exist_ok=True)
        metrics = os.path.join(folder, "metrics.json")
        drop_torn_line(Path(metrics))
        return [
            ProgressPrinter(self.max_iter),
            JSONWriter(metrics),
            TensorboardXWriter(folder),
        ]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        if isinstance(model, DeFCN):
            model.trainer_keys.clear()
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.CHANNELS_LAST else model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        return solver.build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
        return solver.build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> ResumableLoader:
        records = train_dicts(cfg)
        return ResumableLoader(
            records,
            RobustMapper(cfg, True, num_records=num_files(records)),
            make_sampler=build_sampler(cfg, records),
            seed=run_seed(cfg),
            batch_size=images_per_process(cfg),
            group_by_shape=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            mixer=build_mixer(cfg),
            num_batches=cfg.SOLVER.MAX_ITER,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """Writes into OUTPUT_DIR/inference, or where there are several test sets, into a folder for each there."""
        from defcn_ext.evaluation import build_evaluator

        if output_folder is None:
            several = len(cfg.DATASETS.TEST) > 1
            output_folder = os.path.join(cfg.OUTPUT_DIR, "inference", *([dataset_name] if several else []))
        return build_evaluator(cfg, dataset_name, output_folder)

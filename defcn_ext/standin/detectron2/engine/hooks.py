"""Hooks: schedule, checkpoints, evaluation, output and measurement around training steps."""

import datetime
import itertools
import logging
import math
import operator
import time
from collections import Counter
from collections.abc import Mapping

from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats

import detectron2.utils.comm as comm
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver import LRMultiplier
from detectron2.solver import LRScheduler as _TorchLRScheduler
from detectron2.utils.events import EventStorage, EventWriter

from .moments import is_due, is_finished, is_last
from .profiling import AutogradProfiler, TorchMemoryStats, TorchProfiler
from .train_loop import HookBase

__all__ = [
    "CallbackHook",
    "IterationTimer",
    "PeriodicWriter",
    "PeriodicCheckpointer",
    "BestCheckpointer",
    "LRScheduler",
    "AutogradProfiler",
    "EvalHook",
    "PreciseBN",
    "TorchProfiler",
    "TorchMemoryStats",
]


class CallbackHook(HookBase):
    """A hook made of functions, each of which gets the trainer."""

    def __init__(self, *, before_train=None, after_train=None, before_step=None, after_step=None):
        self._callbacks = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def before_train(self):
        self._call("before_train")

    def after_train(self):
        self._call("after_train")
        self._callbacks = {}  # they often refer to the trainer

    def before_step(self):
        self._call("before_step")

    def after_step(self):
        self._call("after_step")

    def _call(self, moment: str) -> None:
        if self._callbacks.get(moment):
            self._callbacks[moment](self.trainer)


class IterationTimer(HookBase):
    """Records seconds an iteration as "time", without the hooks, and logs a summary after training.

    It must be the first hook. The first iterations are slow, so the `warmup_iter - 1` first ones do not count.
    """

    def __init__(self, warmup_iter=3):
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._total_timer = Timer()  # of steps alone: it rests while hooks run

    def before_train(self):
        self._start = time.perf_counter()
        self._timed_steps = 0
        self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self):
        seconds = self._total_timer.seconds()
        whole = time.perf_counter() - self._start
        logger = logging.getLogger(__name__)
        if self._timed_steps > 0 and seconds > 0:
            logger.info(
                f"Overall training speed: {self._timed_steps} iterations in {_clock(seconds)} "
                f"({seconds / self._timed_steps:.4f} s / it)"
            )
        logger.info(f"Total training time: {_clock(whole)} ({_clock(whole - seconds)} on hooks)")

    def before_step(self):
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self):
        done = self.trainer.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self._timed_steps += 1
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()


class PeriodicWriter(HookBase):
    """Lets event writers write every `period` iterations, after the last one, and once more after training."""

    def __init__(self, writers, period=20):
        for writer in writers:
            assert isinstance(writer, EventWriter), f"{writer!r} is not an EventWriter"
        self._writers = writers
        self._period = period

    def after_step(self):
        if is_due(self.trainer, self._period) or is_last(self.trainer):
            for writer in self._writers:
                writer.write()

    def after_train(self):
        for writer in self._writers:
            writer.write()  # what hooks before this one recorded after training
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook: model_0000009.pth after 10 iterations, at the end model_final.pth."""

    def before_train(self):
        self.max_iter = self.trainer.max_iter

    def after_step(self):
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Saves a checkpoint whenever an evaluation beats all earlier ones. Belongs after the EvalHook."""

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        """
        Args:
            eval_period: that of the EvalHook, in iterations.
            checkpointer: saves.
            val_metric: name of the scalar, such as "bbox/AP".
            mode: "max" or "min".
            file_prefix: name of the file, without ".pth".
        """
        assert mode in ("max", "min"), f"mode={mode!r}: use 'max' or 'min'"
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._is_better = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def after_step(self):
        if is_due(self.trainer, self._period) and not is_last(self.trainer):
            self._check()

    def after_train(self):
        if is_finished(self.trainer):
            self._check()

    def _check(self) -> None:
        logger = logging.getLogger(__name__)
        value, iteration = self.trainer.storage.latest().get(self._val_metric, (None, None))
        if value is None:
            logger.warning(f"No scalar {self._val_metric!r} to find the best checkpoint by; needs an EvalHook before")
            return
        if not math.isfinite(value):
            return
        if self.best_metric is None or self._is_better(value, self.best_metric):
            self._checkpointer.save(self._file_prefix, iteration=iteration)
            logger.info(f"Saved best model: {self._val_metric} is {value:.5f}, at iteration {iteration}")
            self.best_metric, self.best_iter = value, iteration


class LRScheduler(HookBase):
    """Steps a schedule after each iteration, and records the learning rate that the iteration used as "lr"."""

    def __init__(self, optimizer=None, scheduler=None):
        """
        Args:
            optimizer: default is `trainer.optimizer`.
            scheduler: one of torch, or a ParamScheduler of fvcore that multiplies; default is `trainer.scheduler`.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self):
        return self._scheduler or self.trainer.scheduler

    def before_train(self):
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._group = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer):
        """Index of the group to report: the largest, or where each holds one parameter, one with the commonest rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self):
        rate = self._optimizer.param_groups[self._group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self):
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchLRScheduler) else {}

    def load_state_dict(self, state_dict):
        if isinstance(self.scheduler, _TorchLRScheduler):
            logging.getLogger(__name__).info("Loading scheduler from state_dict ...")
            self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Evaluates every `eval_period` iterations and after training, and records the numbers. All workers call it."""

    def __init__(self, eval_period, eval_function, eval_after_train=True):
        """
        Args:
            eval_period: iterations; 0 means only after training.
            eval_function: returns nothing or a (nested) dict of numbers, recorded as "outer/inner".
            eval_after_train: whether a finished training is evaluated, under iteration `max_iter`.
        """
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def after_step(self):
        # The end of training is left to after_train, where a finished run that is resumed gets too.
        if is_due(self.trainer, self._period) and not is_last(self.trainer):
            self._do_eval()

    def after_train(self):
        if self._eval_after_train and is_finished(self.trainer):
            self._do_eval()
        self._func = None  # it often refers to the trainer

    def _do_eval(self) -> None:
        """Raises AssertionError if the result is no dict, ValueError if something in it is no number."""
        results = self._func()
        if results:
            assert isinstance(results, Mapping), f"The evaluation function must return a dict, not {results!r}"
            flat = flatten_results_dict(results)
            for name, value in flat.items():
                try:
                    flat[name] = float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"Evaluation result {name!r} is not a number: {value!r}") from error
            self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
        comm.synchronize()  # evaluation takes workers different times, which would look like slow data


class PreciseBN(HookBase):
    """Replaces the running statistics of BatchNorm by means over `num_iter` batches. Belongs before the EvalHook."""

    def __init__(self, period, model, data_loader, num_iter):
        """
        Args:
            period: iterations; 0 means only after the last one.
            model: statistics of its BatchNorm layers in train mode are updated; frozen ones are not.
            data_loader: iterable of batches, continued from one update to the next.
            num_iter: batches an update.
        """
        self._logger = logging.getLogger(__name__)
        self._disabled = not get_bn_modules(model)
        if self._disabled:
            self._logger.info("PreciseBN is off: the model has no BatchNorm layer in train mode")
        self._period = period
        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter
        self._data_iter = None

    def after_step(self):
        if is_due(self.trainer, self._period) or is_last(self.trainer):
            self.update_stats()

    def update_stats(self):
        """Runs the model on the next `num_iter` batches, in train mode and without gradients."""
        if self._disabled:
            return
        if self._data_iter is None:
            self._data_iter = iter(self._data_loader)
        self._logger.info(f"Running precise-BN for {self._num_iter} iterations...")
        with EventStorage():  # the model may record; that is not training
            batches = itertools.islice(self._data_iter, self._num_iter)
            update_bn_stats(self._model, batches, self._num_iter)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))

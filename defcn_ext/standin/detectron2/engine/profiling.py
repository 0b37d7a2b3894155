"""Hooks that look into time and memory of training steps."""

import logging
import os

import torch

import detectron2.utils.comm as comm
from detectron2.utils.file_io import PathManager

from .moments import is_due, is_last
from .train_loop import HookBase


class TorchProfiler(HookBase):
    """Profiles the iterations for which `enable_predicate(trainer)` is true.

    Args:
        enable_predicate: such as `lambda trainer: trainer.iter in (10, 11)`.
        output_dir: folder for traces.
        activities: of `torch.profiler.profile`.
        save_tensorboard: write for TensorBoard into output_dir/log, else Chrome traces.
    """

    def __init__(self, enable_predicate, output_dir, *, activities=None, save_tensorboard=True):
        self._enable_predicate = enable_predicate
        self._output_dir = output_dir
        self._activities = activities
        self._save_tensorboard = save_tensorboard
        self._profiler = None

    def before_step(self):
        if not self._enable_predicate(self.trainer):
            return
        ready = None
        if self._save_tensorboard:
            folder = os.path.join(self._output_dir, "log", f"profiler-iter{self.trainer.iter}")
            ready = torch.profiler.tensorboard_trace_handler(folder, f"worker{comm.get_rank()}")
        self._profiler = torch.profiler.profile(
            activities=self._activities, on_trace_ready=ready, record_shapes=True, profile_memory=True, with_stack=True
        )
        self._profiler.__enter__()

    def after_step(self):
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        if not self._save_tensorboard:
            PathManager.mkdirs(self._output_dir)
            profiler.export_chrome_trace(os.path.join(self._output_dir, f"profiler-trace-iter{self.trainer.iter}.json"))


class AutogradProfiler(TorchProfiler):
    """TorchProfiler with the older profiler of autograd, which writes Chrome traces."""

    def __init__(self, enable_predicate, output_dir, *, use_cuda=True):
        super().__init__(enable_predicate, output_dir, save_tensorboard=False)
        self._use_cuda = use_cuda

    def before_step(self):
        if self._enable_predicate(self.trainer):
            device = "cuda" if self._use_cuda else None
            self._profiler = torch.autograd.profiler.profile(use_device=device)
            self._profiler.__enter__()


class TorchMemoryStats(HookBase):
    """Logs CUDA memory every `period` iterations, `max_runs` times, and details the last time."""

    def __init__(self, period=20, max_runs=10):
        self._logger = logging.getLogger(__name__)
        self._period = period
        self._runs_left = max_runs

    def after_step(self):
        if self._runs_left <= 0 or not torch.cuda.is_available():
            return
        if not (is_due(self.trainer, self._period) or is_last(self.trainer)):
            return
        sizes = {
            "max_reserved": torch.cuda.max_memory_reserved(),
            "reserved": torch.cuda.memory_reserved(),
            "max_allocated": torch.cuda.max_memory_allocated(),
            "allocated": torch.cuda.memory_allocated(),
        }
        listed = ", ".join(f"{name}: {size / 2**20:.0f}MB" for name, size in sizes.items())
        self._logger.info(f"iter: {self.trainer.iter}  {listed}")
        self._runs_left -= 1
        if self._runs_left == 0:
            self._logger.info("\n" + torch.cuda.memory_summary())
        torch.cuda.reset_peak_memory_stats()

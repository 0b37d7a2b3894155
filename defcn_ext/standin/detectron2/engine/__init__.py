"""The training loop: trainers, hooks, the launcher, and what a training script starts with.

`import *` brings the loop and the launcher; hooks and defaults are imported by name.
"""

# ruff: noqa: F401

from . import hooks
from .defaults import (
    DefaultPredictor,
    DefaultTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
)
from .hooks import (
    AutogradProfiler,
    BestCheckpointer,
    CallbackHook,
    EvalHook,
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
    PeriodicWriter,
    PreciseBN,
    TorchMemoryStats,
    TorchProfiler,
)
from .launch import DEFAULT_TIMEOUT, launch
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

__all__ = ["launch", "DEFAULT_TIMEOUT", "HookBase", "TrainerBase", "SimpleTrainer", "AMPTrainer"]

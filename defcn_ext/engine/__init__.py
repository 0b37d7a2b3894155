"""Training: Detectron2's trainer, made repeatable, resumable and at home on the CPU."""

from defcn_ext.engine.config import add_engine_config
from defcn_ext.engine.trainer import Trainer

__all__ = ["Trainer", "add_engine_config"]

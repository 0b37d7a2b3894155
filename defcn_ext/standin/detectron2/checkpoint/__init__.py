from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from . import catalog  # noqa: F401  (registers the catalog:// prefix)
from .detection_checkpoint import DetectionCheckpointer

__all__ = ["Checkpointer", "PeriodicCheckpointer", "DetectionCheckpointer"]

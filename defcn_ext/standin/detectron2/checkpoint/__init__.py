from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from . import catalog as _catalog  # registers the catalog:// prefix
from .detection_checkpoint import DetectionCheckpointer

__all__ = ["Checkpointer", "PeriodicCheckpointer", "DetectionCheckpointer"]

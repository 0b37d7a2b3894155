from .description import classes_of, describe
from .reading import Checkpoint, check_kind, read_checkpoint
from .strict import StrictCheckpointer, load_weights

__all__ = [
    "Checkpoint",
    "StrictCheckpointer",
    "check_kind",
    "classes_of",
    "describe",
    "load_weights",
    "read_checkpoint",
]
